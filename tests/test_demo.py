"""The page to draw on: its arithmetic equals PyTorch's, it asks for nothing, and it reads what is drawn."""

import base64
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import drawn_digits
import numpy as np
import pytest
import torch
from conftest import fresh, settings
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ffbp.algorithms import Algorithm
from ffbp.data.drawings import as_drawn, on_paper
from ffbp.data.sources import FRAMES, digits
from ffbp.demo.export import describe, rounded
from ffbp.demo.page import MARKER, SCRIPTS, page_of, write_demo
from ffbp.errors import ConfigError
from ffbp.lifecycle.train import train

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NOTHING = "\N{EN DASH}"
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium; install the package chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


def a_model(*words: str) -> Algorithm:
    """A network with drawn weights, read-out and batch norm included, and with the settings that a run would have."""
    model = fresh(*words)
    chosen = settings(*words)
    model.settings = {name: chosen[name] for name in ("algo", "model", "data")} | {"classes": 10}
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() < 2 or not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return model.eval()


def a_page(models: list[Algorithm], **changed: object) -> str:
    described = [describe(model, "a run") for model in models]
    shown: dict[str, Any] = {"title": "A network", "sizes": "small", "accuracy": "", "run": "a run"}
    return page_of([network | shown | changed for network in described])


def opened(browser: Browser, file: Path, width: int = 1280, scheme: str = "light") -> tuple[Page, list[str]]:
    """A page of a file, and what goes wrong on it: errors, warnings and requests."""
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url != file.as_uri() else None)
    page.goto(file.as_uri())
    return page, wrong


MODELS = {
    "bp on an mlp": ("algo=bp", "model=mlp", "model.widths=[20,12]", "model.activation=tanh"),
    "bp with batch norm": ("algo=bp", "model=mlp", "model.widths=[20]", "model.batch_norm=true"),
    "bp on a cnn": ("algo=bp", "model=cnn", "model.batch_norm=true"),
    "ff on an mlp": ("algo=ff",),
    "ff on three layers": ("algo=ff", "model.widths=[16,14,12]", "algo.goodness=sum_square", "algo.normalization=l2"),
    "ff with batch norm": ("algo=ff", "model.widths=[16,14]", "model.batch_norm=true", "algo.readout=goodness"),
    "ff on a cnn, waves": ("algo=ff", "model=cnn"),
    "ff on a cnn, planes": ("algo=ff", "model=cnn", "algo.label_embedding=channels", "algo.label_strength=0.5"),
    "ff on a cnn, normalised by position": ("algo=ff", "model=cnn", "algo.normalization_per=position"),
    "ff without labels": ("algo=ff", "algo.negatives=hybrid", "model.activation=sigmoid"),
    "ff on normalised images": ("algo=ff", "algo.normalize_images=true"),
}


@needs_chromium
def test_a_network_answers_as_under_pytorch(browser, tmp_path):
    models = {name: a_model(*words) for name, words in MODELS.items()}
    (tmp_path / "demo.html").write_text(a_page(list(models.values())))
    page, _ = opened(browser, tmp_path / "demo.html")
    image = torch.rand(1, 1, 28, 28, generator=torch.manual_seed(2)) * (digits()[1].images[3:4] / 255 + 0.2).clamp(
        max=1
    )
    for number, (name, model) in enumerate(models.items()):
        found = page.evaluate(
            """([number, pixels]) => {
                const found = ask(networks[number], Float64Array.from(pixels));
                return {...found, activities: found.activities.map(({data}) => Array.from(data))};
            }""",
            [number, image.flatten().tolist()],
        )
        small = rounded(model).double()
        with torch.no_grad():
            readouts = small.readouts(image.double()) or {"softmax": small.answer(image.double())}
            answer = small.answer(image.double())
        assert found["answer"] == int(answer.argmax()), name
        wanted = {"logits": readouts["softmax"][0]}
        if "goodness" in readouts:
            wanted |= {"goodness": readouts["goodness"][0], "layers": small.goodness_by_layer(image)[0]}
        else:
            assert found["layers"] is None
        for part, expected in wanted.items():
            numbers = torch.tensor(found[part], dtype=torch.double)
            assert torch.allclose(numbers, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max())), (name, part)
        if model.settings["algo"]["name"] == "bp":
            for one, expected in zip(found["activities"], small.stack.activities(image.double()), strict=True):
                assert np.allclose(one, expected.detach().flatten(), rtol=1e-3, atol=1e-6), name
        with torch.no_grad():  # what rounding costs
            assert torch.allclose(model.answer(image), answer.float(), rtol=0.02, atol=0.02 * float(answer.abs().max()))


@needs_chromium
def test_a_picture_becomes_the_same_image_as_under_evaluate(browser, tmp_path):
    (tmp_path / "demo.html").write_text(a_page([a_model("algo=bp", "model=mlp", "model.widths=[4]")]))
    page, _ = opened(browser, tmp_path / "demo.html")
    drawings = drawn_digits.write(tmp_path / "pictures", digits=(2,))
    for number, (path, _, way) in enumerate(drawings):
        frame = FRAMES["digits" if number % 5 == 0 else "mnist"]
        picture = Image.open(path)
        if picture.mode.startswith("I"):
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))  # as a browser reads it
        expected = as_drawn(on_paper(picture), frame)
        found = page.evaluate(
            """async ([address, frame]) => {
                const bytes = Uint8Array.from(atob(address), (c) => c.charCodeAt(0));
                picture = await createImageBitmap(new Blob([bytes]), {colorSpaceConversion: "none"});
                return Array.from(asDrawn(given(), frame));
            }""",
            [base64.b64encode(path.read_bytes()).decode(), frame._asdict()],
        )
        away = np.abs(np.array(found).reshape(28, 28) * 255 - expected)
        assert away.mean() < 1.0, (way, away.mean())


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """Two trained networks, in directories with names of a stranger's."""
    folder = tmp_path_factory.mktemp("runs")
    paths = []
    for algo, name in (("ff", "<img src=x onerror=alert(1)>"), ("bp", "</script><b>&quot;{{ 1 }}")):
        paths.append(folder / name)
        words = (f"algo={algo}", "model=mlp", "trainer.max_epochs=8", "data.shift=1")
        train(settings(*words), paths[-1])
    return paths


@needs_chromium
def test_the_page_opens_anywhere_asks_for_nothing_and_reads_what_is_drawn(browser, runs, tmp_path):
    file = tmp_path / "demo.html"
    assert write_demo(runs, file) == file.stat().st_size < 1_500_000
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            page, wrong = opened(browser, file, width, scheme)
            box = page.locator("#pad").bounding_box()
            strokes = [[(0.5, 0.15), (0.3, 0.3), (0.27, 0.6), (0.5, 0.85), (0.7, 0.65), (0.7, 0.3), (0.5, 0.15)]]
            for stroke in strokes:
                points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
                page.mouse.move(*points[0])
                page.mouse.down()
                for point in points[1:]:
                    page.mouse.move(*point, steps=4)
                page.mouse.up()
            answers, status = page.locator(".answer strong"), page.locator("#status")
            expect(status).to_have_text("Forward-Forward: 0 · Backpropagation: 0")
            expect(answers).to_have_text(["0", "0"])
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.locator(".run").all_text_contents() == [str(run) for run in runs]
            page.focus("#clear")
            page.keyboard.press("Enter")
            expect(answers).to_have_text([NOTHING, NOTHING])
            page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"none"})
            expect(status).to_have_text("x.png: cannot be read as a picture.")
            drawn = io.BytesIO()
            drawn_digits.painted(drawn_digits.mask(0, np.random.default_rng(0))).save(drawn, "PNG")
            page.set_input_files("#file", {"name": "0.png", "mimeType": "image/png", "buffer": drawn.getvalue()})
            expect(answers).to_have_text(["0", "0"])
            assert wrong == []
            page.close()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("algo=feedback", "model=mlp"), "algo=feedback on model=mlp; the page knows mlp and cnn under bp and ff"),
        (("algo=ff", "algo.label_embedding=units"), "algo.label_embedding=units; the page knows overlay, channels and"),
        (("algo=ff", "model=local"), "algo=ff on model=local"),
        (("algo=bp", "model=conv"), "algo=bp on model=conv"),
        (("algo=bp", "data=fashion_mnist"), "data=fashion_mnist; the page is for digits"),
    ],
)
def test_what_the_page_does_not_know_is_refused_by_name(words, says):
    with pytest.raises(ConfigError, match=f"^a run: {says}"):
        describe(a_model(*words), "a run")


def test_weights_that_do_not_fit_into_16_bits_are_refused():
    model = a_model("algo=bp", "model=mlp", "model.widths=[4]")
    model.stack.head.affine.bias.data[0] = 1e5
    with pytest.raises(ConfigError, match="too large for 16 bits"):
        describe(model, "a run")


def test_only_its_own_file_is_replaced(runs, tmp_path):
    file = tmp_path / "page.html"
    file.write_text("mine")
    for wrong in (file, tmp_path, tmp_path / "link"):
        if wrong.name == "link":
            wrong.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(ConfigError, match="was not written by demo"):
            write_demo(runs[:1], wrong)
    assert file.read_text() == "mine"
    write_demo(runs[:1], tmp_path / "new.html")
    write_demo(runs[:1], tmp_path / "new.html")
    text = (tmp_path / "new.html").read_text()
    assert text.splitlines()[1] == MARKER
    assert "<img" not in text


def test_the_forward_pass_is_short():
    folder = Path(describe.__code__.co_filename).parent
    assert len((folder / "forward.js").read_text().splitlines()) <= 400
    assert {path.name for path in folder.glob("*.js")} == set(SCRIPTS)


def test_the_command_writes_a_page(runs, warm):
    done = warm(f"runs=['{runs[0]}']", script="demo.py")
    assert done.wait() == 0, done.stderr
    assert (warm.folder / "demo.html").stat().st_size > 100_000
    assert done.stdout.startswith("demo.html (0.")
    refused = warm(f"runs={runs[0]}", "out=demo.html", "trust=[x]", "nothing=1", script="demo.py")
    assert (refused.wait(), refused.stderr.count("\n")) == (2, 1)
