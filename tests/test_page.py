"""The comparison's page in a real browser: narrow and wide, light and dark, and nothing but itself."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import settings
from playwright.sync_api import expect, sync_playwright
from test_predictions import save
from test_report import write_run

from ffbp.report import grids
from ffbp.report.page import write_report
from ffbp.report.runs import group_runs, read_runs

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)

HOSTILE = "</script><img src=x onerror=alert(1)>{{7*7}}"
LONG = "a_rule_with_" + "a_very_long_name_" * 8
LAYERS = [f"ff/layer_{k}/{name}" for k in range(3) for name in ("goodness_pos", "goodness_neg", "separation")]


GRID = {
    ("0.1", "tanh"): 0.5,
    ("1e-2", "tanh"): 0.9,
    ("1e-2", "relu"): 0.97,
    ("0.003", "relu"): 0.7,
    ("0.003", "tanh"): 0.01,
}


def write_grid(root: Path, words: dict[tuple[str, ...], float], *names: str) -> Path:
    """Runs of two seeds each that set names to values."""
    for number, (values, accuracy) in enumerate(words.items()):
        for seed in (0, 1):
            config = settings("algo=bp", "model=mlp", f"trainer.log_every_n_steps={number + 1}")
            config["algo"]["x"] = number  # what makes groups
            typed = ["algo=bp", *(f"{name}={value}" for name, value in zip(names, values, strict=True)), f"seed={seed}"]
            measured = {"val/acc": accuracy - seed / 100, "test/acc": 0.5}
            write_run(root / f"{number}" / f"seed={seed}", "bp", *typed, config=config, seed=seed, **measured)
    return root


def write_curves(folder: Path, best: float, epochs: int = 12) -> None:
    names = ["epoch", "train/loss", "train/acc", "val/loss", "val/acc", "time/epoch_seconds", *LAYERS]
    lines = []
    for epoch in range(epochs):
        accuracy = best - 0.3 / (1 + epoch)
        lines.append([epoch, 1 - accuracy, accuracy, 1.1 - accuracy, accuracy, 2.0, *[accuracy] * len(LAYERS)])
    text = "\n".join(",".join(map(str, line)) for line in [names, *lines])
    (folder / "metrics.csv").write_text(text + "\n")


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """The page of some thirty groups: with long names, hostile ones, several seeds, two data sets, one unfinished."""
    root = tmp_path_factory.mktemp("runs")
    bp, ff = settings("algo=bp", "model=mlp"), settings("algo=ff")
    for number in range(30):
        algo, config = ("bp", bp) if number % 2 else ("ff", ff)
        for seed in (0, 1):
            config = json.loads(json.dumps(config))
            config["algo"]["optimizer"]["lr"], config["data"]["shift"] = 10.0**-number, number % 3
            accuracy = 0.99 - number / 200 - seed / 500
            folder = root / f"{number:02}" / f"seed={seed}"
            write_run(folder, algo, config=config, seed=seed, **{"test/acc": accuracy, "val/acc": accuracy})
            write_curves(folder, accuracy)
            save(folder / "predictions.npz", [0, 1, 2] * 20, [0, number % 3, 2] * (20 - seed) + [0, 1, 2] * seed)
    for name in (HOSTILE, LONG):
        write_curves(write_run(root / "others" / str(len(name)), name, data=f"of {name}"[:190]), 0.8)
    (write_run(root / "broken", state="failed") / "metrics.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ffbp.report.page.draw", lambda groups, quantity, *paths: [path.touch() for path in paths])
        write_report(root)
    return root / "compare" / "index.html"


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, page_file):
    """Open the page; what is said on the console, and asked of any network, fails the test."""
    contexts, said = [], []

    def open_page(width: int = 1280, scheme: str = "light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message))
        page.on("request", lambda request: said.append(request.url) if request.url[:5] != "data:" else None)
        page.goto(page_file.as_uri())
        assert said.pop(0) == page_file.as_uri()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert said == []


FITS = "document.scrollingElement.scrollWidth <= innerWidth"
PAPER = "getComputedStyle(document.body).backgroundColor"


def test_a_page_of_thirty_groups_is_small(page_file):
    assert page_file.stat().st_size < 2_000_000


@pytest.mark.parametrize("width", [390, 768, 1280, 1600])
def test_nothing_is_wider_than_the_window_or_said_or_fetched(width, opened):
    page = opened(width)
    assert page.evaluate(FITS)
    page.locator("details").evaluate_all("all => all.forEach((details) => { details.open = true; })")
    assert page.evaluate(FITS)
    expect(page.locator(".by-epoch polyline")).to_have_count(8 + 1 + 1)
    assert page.locator("img").count() == 0


def test_light_and_dark_follow_the_system_and_the_switch(opened):
    assert opened(scheme="light").evaluate(PAPER) == "rgb(255, 255, 255)"
    page = opened(scheme="dark")
    dark = page.evaluate(PAPER)
    assert dark == "rgb(20, 23, 28)"
    page.click("#theme")
    assert page.evaluate(PAPER) == "rgb(255, 255, 255)"
    page.click("#theme")
    assert page.evaluate(PAPER) == dark


def test_the_table_is_sorted_and_filtered(opened):
    page = opened()
    table = page.locator(".results").first
    shown = table.locator("tbody").first.locator("tr:visible")
    assert shown.count() == 30
    assert shown.first.locator("td").first.text_content() == "98.90 ± 0.14"
    page.click("thead button:text('test, %') >> nth=0")
    assert shown.first.locator("td").first.text_content() == "98.90 ± 0.14"
    page.click("thead button:text('test, %') >> nth=0")
    assert shown.first.locator("td").first.text_content() == "84.40 ± 0.14"
    page.fill(".filter >> nth=0", "forward data.shift=2")
    assert shown.count() == 5
    assert page.locator(".count").first.text_content() == "5 of 30 groups"


def test_curves_are_chosen_and_their_values_read_under_the_mouse(opened):
    page = opened()
    chart, legend = page.locator(".by-second").first, page.locator(".legend").first
    expect(chart.locator("polyline")).to_have_count(8)
    assert {*legend.locator("[aria-pressed=true]").all_text_contents()} > {"Forward-Forward, mlp, lr=1, shift=0"}
    legend.get_by_text("none").click()
    expect(chart.locator("polyline")).to_have_count(0)
    legend.get_by_text("all", exact=True).click()
    expect(chart.locator("polyline")).to_have_count(30)
    expect(chart.locator("polygon")).to_have_count(30)
    page.locator(".training").first.check()
    expect(chart.locator("polyline")).to_have_count(60)
    page.locator(".quantity").first.select_option("loss")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 15, box["y"] + 100)
    said = page.locator(".tip:visible").inner_text()
    assert said.startswith("seconds of training: 24\n")
    assert "Forward-Forward, mlp, lr=1e-28, shift=1" in said
    assert "and 48 more" in said
    assert page.evaluate(FITS)


def test_layers_are_drawn_over_the_epochs(opened):
    layers = opened().locator(".layers").first
    expect(layers.locator("polyline")).to_have_count(3)
    assert layers.locator(".legend button").all_text_contents() == ["layer 0", "layer 1", "layer 2"]
    layers.locator(".measure").select_option("ff goodness")
    expect(layers.locator("polyline")).to_have_count(6)
    assert layers.locator(".legend button").all_text_contents()[:2] == ["layer 0 pos", "layer 0 neg"]
    expect(layers.locator("polyline[stroke-dasharray='7 3']")).to_have_count(3)  # of negatives


def test_what_one_gets_right_and_the_other_wrong_is_drawn(opened):
    page = opened()
    answers = page.locator(".answers").first
    one, two = answers.locator("select").all()
    one.select_option(label="backprop, mlp, lr=0.1, shift=1")  # which takes 1 for 1
    two.select_option(label="Forward-Forward, mlp, lr=0.01, shift=2")  # which takes 1 for 2
    right_here, right_there = answers.locator(".tiles").all()
    assert right_here.locator("h4").text_content().startswith("19 right by backprop")
    assert right_there.locator("h4").text_content().startswith("0 right by Forward-Forward")
    assert right_here.locator("li").first.inner_text() == "1 → 2 75 %"
    brightness = "canvas => canvas.getContext('2d').getImageData(0, 0, 1, 1).data[0]"
    assert right_here.locator("canvas").nth(1).evaluate(brightness) == 40  # of image 4, see `save`
    cell = answers.locator(".confusion").nth(1).locator("tbody tr").nth(1).locator("td").nth(2)
    assert cell.get_attribute("title") == "1 taken for 2: 39 of 40"
    assert cell.text_content() == "98"


def test_names_are_words_whatever_they_say_and_a_link_opens_what_it_leads_to(opened):
    page = opened()
    assert page.get_by_text(f"{HOSTILE}, mlp").count() >= 3
    assert page.locator("section#unfinished td").all_text_contents() == ["broken", "failed", ""]
    link = page.locator(".results a").nth(1)
    link.click()
    details = page.locator(link.get_attribute("href"))
    expect(details).to_have_attribute("open", "")  # it opens when the address has changed, after the click
    assert details.locator("td a").first.get_attribute("href") == "../01/seed%3D0/"
    run = page.evaluate("new URL('../01/seed%3D0/', location.href).pathname")
    assert (Path(run.replace("%3D", "=")) / "metrics.json").exists()


# -- a grid of two settings

CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (color) => {
    canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const part = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255);
    const [r, g, b] = part.map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
  };
  return [...document.querySelectorAll(".heat td a")].map((cell) => {
    const colors = [getComputedStyle(cell).color, getComputedStyle(cell.parentElement).backgroundColor];
    const [ink, paper] = colors.map(light);
    return Math.max(ink, paper) / Math.min(ink, paper);
  });
}"""


@pytest.fixture(scope="module")
def page_of_a_grid(tmp_path_factory) -> Path:
    root = write_grid(tmp_path_factory.mktemp("grid"), GRID, "algo.optimizer.lr", f"+model.{HOSTILE.replace('=', '')}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ffbp.report.page.draw", lambda groups, quantity, *paths: [path.touch() for path in paths])
        write_report(root)
    return root / "compare" / "index.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_grid_of_two_settings_is_a_heat_map(width, scheme, browser, page_of_a_grid):
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = context.new_page()
    page.goto(page_of_a_grid.as_uri())
    heat = page.locator(".heat")
    assert heat.locator("tbody th").all_text_contents() == ["0.003", "1e-2", "0.1"]
    assert heat.locator("thead tr").nth(1).locator("th").all_text_contents() == ["lr", "relu", "tanh"]
    rows = [heat.locator("tbody tr").nth(row).locator("td").all_inner_texts() for row in range(3)]
    assert rows == [["69.50", "0.50"], ["96.50\nthe best", "89.50"], ["-", "49.50"]]  # means over the seeds
    assert heat.locator(".best").get_attribute("title").endswith("96.50 ± 0.71 %, 2 seeds")
    assert heat.locator("img").count() == 0
    assert page.evaluate(FITS)
    assert min(page.evaluate(CONTRAST)) > 4.5
    colours = heat.locator("td:has(a)").evaluate_all("all => all.map((cell) => getComputedStyle(cell).backgroundColor)")
    assert len(set(colours)) == 5
    heat.locator(".best a").click()
    expect(page.locator("details[open]")).to_have_count(1)
    context.close()


def test_what_is_no_grid_is_not_drawn(tmp_path):
    lines = {("0.1", "a"): 0.5, ("0.2", "b"): 0.5, ("0.3", "a"): 0.5, ("0.4", "b"): 0.5}  # drawn at random
    three = {(x, y, z): 0.5 for x in "01" for y in "01" for z in "01"}
    for number, (words, names) in enumerate([(lines, "lr activation"), (three, "x y z"), ({("1", "2"): 0.5}, "x y")]):
        groups = group_runs(read_runs(write_grid(tmp_path / str(number), words, *names.split())))
        assert grids.for_page(groups) == []
