"""Runs on disk become groups, sentences and pictures."""

import copy
import csv
import io
import json
import os
import re
import shutil
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import yaml
from conftest import settings
from matplotlib.axes import Axes
from rich.console import Console

from ffbp.callbacks.pictures import first_layer_picture
from ffbp.errors import CheckpointError, ConfigError
from ffbp.lifecycle.directory import RunDirectory
from ffbp.models import Block
from ffbp.report.curves import curve
from ffbp.report.differences import labels
from ffbp.report.figures import draw
from ffbp.report.page import conclusions, row, terminal_table, write_report
from ffbp.report.runs import Group, Run, find_runs, group_runs, read_runs


def a_run(algo: str, model: str, seed: int, accuracy: float, *overrides: str, data: str = "mnist") -> Run:
    metrics = {
        "algo": algo, "model": model, "data": data, "seed": seed, "epochs": 2, "parameters": 1000, "test/acc": accuracy,
        "val/acc": accuracy, "time/train_seconds": 3.0,
    }  # fmt: skip
    history = {"epoch": [0, 1], "val/acc": [0.5, accuracy], "time/epoch_seconds": [1.5, 1.5]}
    return Run(metrics, history, [f"seed={seed}", f"algo={algo}", *overrides])


def test_groups_differ_in_all_but_their_seed_best_first():
    runs = [a_run("bp", "mlp", seed, acc) for seed, acc in enumerate((0.90, 0.92, 0.94))]
    runs += [
        a_run("bp", "mlp", 0, 0.97, "data.shift=1"),
        a_run("ff", "mlp", 0, 0.80),
        a_run("bp", "mlp", 0, 0.5, data="digits"),
    ]
    groups = group_runs(runs)
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("backprop, mlp, shift=1", 1),
        ("backprop, mlp", 3),
        ("Forward-Forward, mlp", 1),
        ("backprop, mlp", 1),
    ]
    assert groups[1].mean("test/acc") == pytest.approx(0.92)
    assert groups[1].deviation("test/acc") == pytest.approx(0.02)  # of a sample of three
    assert row(groups[1])["accuracy"] == "92.00 ± 2.00"
    assert row(groups[0])["accuracy"] == "97.00"
    assert row(groups[0])["goodness"] == "-"


def with_settings(changes: dict[str, object], base: dict, seed: int = 0, **metrics: object) -> Run:
    """A run of these settings, some of them changed: {"data.shift": 1}; a value of ... leaves one out."""
    chosen = copy.deepcopy(base)
    for name, value in changes.items():
        *groups, last = name.split(".")
        part = chosen
        for group in groups:
            part = part[group]
        if value is ...:
            del part[last]
        else:
            part[last] = value
    run = a_run(chosen["algo"]["name"], chosen["model"]["name"], seed, 0.9)
    return Run(run.metrics | {"device": "x86_64 cpu"} | metrics, run.history, run.overrides, chosen)


def test_groups_are_made_from_what_was_resolved_and_named_by_what_differs():
    ff = settings("algo=ff")
    same = [
        {},
        {"seed": 1, "trainer.accelerator": "auto", "trainer.log_every_n_steps": 1, "trainer.strategy": "ddp"},
        {"logger": {"csv": {"_target_": "x"}}, "paths": {"data_dir": "elsewhere"}, "checkpoint.every_n_steps": 7},
        {"callbacks": {"pictures": {"_target_": "ffbp.callbacks.FirstLayerPictures", "count": 3}}},
        {"data.data_dir": "/x", "data.download": True, "data.eval_batch_size": 7, "debug": True, "threads": 3},
        {"algo.alpha": 4, "algo.peer_normalization": ..., "trainer.min_epochs": ...},  # as typed, and of older versions
    ]
    other = [
        ({"data.shift": 1}, {}, "shift=1"),
        ({"algo.peer_normalization": "hinton"}, {}, "peer_normalization=hinton"),
        ({"algo.head.lr": 0.1}, {}, "head.lr=0.1"),
        ({"algo.optimizer.lr": [0.1, 1e-5]}, {}, "optimizer.lr=[0.1,1e-05]"),
        ({"trainer.max_epochs": 40}, {"epochs": 40}, "epochs=40"),
        ({}, {"device": "NVIDIA H200"}, "device=NVIDIA H200"),
        ({"compile": True}, {}, "compile=true"),
    ]
    runs = [with_settings(changes, ff, seed) for seed, changes in enumerate(same)]
    runs += [with_settings(changes, ff, **metrics) for changes, metrics, _ in other]
    groups = {group.label: len(group.runs) for group in group_runs(runs)}
    assert groups == {"Forward-Forward, mlp": len(same)} | {f"Forward-Forward, mlp, {named}": 1 for *_, named in other}


def test_early_stopping_is_a_group_of_its_own_however_many_epochs_it_came_to():
    ff = settings("algo=ff", "callbacks=early_stop", "trainer.max_epochs=50")
    runs = [with_settings({}, ff, seed, epochs=10 + seed) for seed in range(3)]
    runs += [with_settings({"callbacks": {}}, ff, epochs=50)]
    assert sorted(len(group.runs) for group in group_runs(runs)) == [1, 3]


def test_labels_name_what_is_not_the_rule_and_stay_apart():
    assert labels(["a", "a", "b"], [{"x.lr": 1}, {"x.lr": 2}, {"x.lr": 3}]) == ["a, lr=1", "a, lr=2", "b"]
    many = [{"p.lr": 1, "q": None}, {"p.lr": 1, "q": 2}, {"p.lr": 1}, {"p.lr": 3, "q": None}]
    assert labels(["a"] * 4, many) == ["a", "a, q=2", "a", "a, lr=3"]  # null and missing are the same
    assert labels(["a"] * 3, [{"x": 1}, {"x": 1}, {}]) == ["a", "a", "a, x=null"]


COLUMNS = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "time/epoch_seconds")


def write_run(
    folder: Path,
    algo: str = "bp",
    *overrides: str,
    config: dict | None = None,
    state: str = "finished",
    **changed: object,
) -> Path:
    """A finished run's files."""
    (folder / ".hydra").mkdir(parents=True)
    metrics = a_run(algo, "mlp", 0, 0.9).metrics | {"torch": "", "lightning": "", "device": "", "threads": 1}
    (folder / "metrics.json").write_text(json.dumps(metrics | changed))
    (folder / "metrics.csv").write_text(",".join(COLUMNS) + "\n0,1,0.8,1,0.9,3\n")
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    if config is not None:
        (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "status.json").write_text(json.dumps({"state": state, "overrides": list(overrides), "error": None}))
    return folder


@pytest.fixture
def no_figures(monkeypatch):
    """Leave out what takes most of the time of a comparison."""
    monkeypatch.setattr("ffbp.report.page.draw", lambda groups, quantity, *paths: [path.touch() for path in paths])


def test_the_page_has_a_column_for_every_read_out_that_any_run_has(tmp_path, no_figures):
    for algo, readout in (("bp", {}), ("ff", {"test/acc_softmax": 0.8125}), ("own", {"test/acc_layer_1": 0.8125})):
        write_run(tmp_path / algo, algo, **readout)
    write_report(tmp_path)
    page = (tmp_path / "compare" / "index.html").read_text()
    titles = re.findall('<th><button type="button">(.*?)</button></th>', page)
    assert titles[:5] == ["group", "test, %", "by layer_1, %", "by softmax, %", "validation, %"]
    assert not {"by goodness, %", "step, MiB"} & {*titles}  # of which no run has anything
    assert page.count('<td data-value="0.8125">81.25</td>') == 2
    assert page.count("<td>-</td>") == 4


def test_a_folder_of_any_name_and_a_number_of_any_size_have_a_place_on_the_page(tmp_path, no_figures):
    write_run(tmp_path / os.fsdecode(b"\xff odd"), **{"work/train_macs": 1e-320})
    write_report(tmp_path)
    assert "../%FF%20odd/" in (tmp_path / "compare" / "index.html").read_text()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *[("metrics.json", text) for text in ("", "{", "[]", "null", "[" * 9000, "9" * 5000, "{}", " " * 2_000_000)],
        *[("metrics.json", {key: None}) for key in ("algo", "test/acc", "epochs", "time/train_seconds")],
        *[("metrics.json", {"test/acc": value}) for value in (float("nan"), float("inf"), -1, "x", [1])],
        *[("metrics.json", {"data": value}) for value in ("x" * 300, "\x1b[31m", "a\nb")],
        ("metrics.json", {"test/acc_softmax": "x"}),
        ("metrics.json", {"own": 1.7e308}),  # of which two cannot be added
        *[("metrics.csv", text) for text in ("", "epoch\n", "epoch\n0\n", "a,b\n1\n", '"' * 200_000, "\0")],
        *[("metrics.csv", ",".join(COLUMNS) + f"\n0,{value},1,1,1,1\n") for value in ("inf", "x", "1,1", "1e300")],
        ("metrics.csv", ",".join(COLUMNS) + "\n0,1,1,1,1,\n"),
        *[(".hydra/overrides.yaml", text) for text in ("a: 1", "[", "\0", "&a [*a]", "- " * 3000, "x" * 200_000)],
        *[(".hydra/config.yaml", text) for text in ("", "[", "a: 1", "algo: {x: '${oc.env:HOME}'}", "&a [*a]")],
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_damaged_run_is_named_and_left_out(file, content, tmp_path, capsys):
    write_run(tmp_path / "good")
    damaged = write_run(tmp_path / "bad") / file
    if isinstance(content, dict):
        content = json.dumps(json.loads(damaged.read_text()) | content)
    damaged.write_text(content)
    assert len(read_runs(tmp_path)) == 1
    said = capsys.readouterr().err
    assert said.startswith("skipped: ")
    assert f"bad/{file}" in said
    assert said.count("\n") == 1
    with pytest.raises(CheckpointError, match="no finished runs"):
        read_runs(tmp_path / "bad")


def test_a_file_that_is_none_is_not_waited_for(tmp_path, capsys):
    write_run(tmp_path / "good")
    for file in ("metrics.json", "metrics.csv", ".hydra/overrides.yaml"):
        path = write_run(tmp_path / f"run_{len(file)}") / file
        path.unlink()
        os.mkfifo(path)
    assert len(read_runs(tmp_path)) == 1
    assert capsys.readouterr().err.count("\n") == 3


HOSTILE = ["../../../x", "a/b", "a_b", "[/bold]", "$x^$", "_<script>數據"]


def test_names_in_a_strangers_run_are_words_and_lead_nowhere(tmp_path, no_figures):
    for number, name in enumerate(HOSTILE):
        write_run(tmp_path / "logs" / str(number), name, name, data=name)
    groups = write_report(tmp_path / "logs")
    draw(groups, "acc", tmp_path / "logs" / "figure.svg")
    console = Console(file=io.StringIO(), width=200)
    console.print(terminal_table(groups))
    assert "[/bold]" in console.file.getvalue()
    assert len(groups) == len(HOSTILE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["logs"]
    figures = {path.name for path in (tmp_path / "logs" / "compare").glob("*.png")}
    assert len(figures) == 2 * len(HOSTILE)
    page = (tmp_path / "logs" / "compare" / "index.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    scripts = re.findall(r"<script type=\"(.*?)\"[^>]*>(.*?)</script>", page, re.DOTALL)
    assert [kind for kind, _ in scripts] == ["application/json", "text/javascript"]
    assert {part["name"] for part in json.loads(scripts[0][1])} == {*HOSTILE}
    policy = re.search('Content-Security-Policy" content="(.*?)">', page)[1]
    assert f"script-src &#39;sha256-{b64encode(sha256(scripts[1][1].encode()).digest()).decode()}&#39;" in policy
    assert "unsafe" not in policy
    lines = list(csv.reader((tmp_path / "logs" / "compare" / "groups.csv").open()))
    assert len(lines) == 1 + len(HOSTILE)


def test_settings_of_a_stranger_are_shown_in_printable_lines(tmp_path, no_figures):
    for number, evil in enumerate(("\x1b[31m", "a\nb", "</script>")):
        config = {"algo": {"name": "bp", evil: evil}, "model": {}, "data": {}, "trainer": {}, "seed": 0}
        write_run(tmp_path / str(number), config=config)
    groups = write_report(tmp_path)
    assert len(groups) == 3
    assert all(group.label.isprintable() for group in groups)
    page = (tmp_path / "compare" / "index.html").read_text()
    assert "\x1b" not in page
    assert page.count("</script>") == 2


def test_a_cell_of_a_csv_file_is_no_formula(tmp_path, no_figures):
    write_run(tmp_path / "run", "=1+1", data="@x")
    write_report(tmp_path)
    [_, line] = csv.reader((tmp_path / "compare" / "groups.csv").open())
    assert line[:2] == ["'@x", "'=1+1, mlp"]


def test_data_sets_of_one_name_with_other_images_are_not_compared(tmp_path):
    for folder, images in {"a": "3f2a", "b": "3f2a", "c": "77d0"}.items():
        write_run(tmp_path / folder, data="npz", images=images)
    write_run(tmp_path / "d", data="digits")
    assert [run.metrics["data"] for run in read_runs(tmp_path)] == ["npz 3f2a", "npz 3f2a", "npz 77d0", "digits"]


def test_data_sets_have_tables_of_their_own_in_the_terminal():
    runs = [a_run("bp", "mlp", 0, 0.97), a_run("ff", "[b]mlp[/b]", 0, 0.94), a_run("bp", "mlp", 0, 0.5, data="[red]")]
    console = Console(file=io.StringIO(), width=160)
    console.print(terminal_table(group_runs(runs)))
    lines = [line.split("  ")[0] for line in console.file.getvalue().splitlines()]
    assert lines == ["mnist", "backprop, mlp", "Forward-Forward, [b]mlp[/b]", "", "[red]", "backprop, mlp"]


def test_runs_that_are_not_finished_are_listed_with_their_state(tmp_path, no_figures):
    write_run(tmp_path / "finished")
    for state in ("failed", "interrupted", "running", "<b>"):
        (write_run(tmp_path / state, state=state) / "metrics.json").unlink()
    (write_run(tmp_path / "rehearsal") / "metrics.json").unlink()
    (write_run(tmp_path / "damaged") / "metrics.json").unlink()
    (tmp_path / "damaged" / "status.json").write_text("{")
    write_run(tmp_path / "longer", state="interrupted")  # finished, and then given more epochs
    found = find_runs(tmp_path)
    states = {run.directory: run.state for run in found.unfinished}
    assert states == {
        "failed": "failed", "interrupted": "interrupted", "running": "killed", "<b>": "unknown",
        "rehearsal": "finished", "damaged": "unknown", "longer": "interrupted",
    }  # fmt: skip
    assert sorted(run.directory for run in found.runs) == ["finished", "longer"]
    with RunDirectory(tmp_path / "running").locked():
        assert {run.state for run in find_runs(tmp_path).unfinished if run.directory == "running"} == {"running"}
    write_report(tmp_path)
    page = (tmp_path / "compare" / "index.html").read_text()
    assert '<a href="../%3Cb%3E/">&lt;b&gt;</a></td><td>unknown</td>' in page
    assert page.count("<td>killed</td><td>its process is gone</td>") == 1


def test_a_run_is_found_again_by_its_command_revision_and_directory(tmp_path, no_figures):
    ff, words = settings("algo=ff", "data.shift=1"), ["algo=ff", "data.shift=1", "model.widths=[8, 8]"]
    for seed in (0, 1):
        write_run(
            tmp_path / "deep" / f"a run={seed}",
            "ff",
            f"seed={seed}",
            *words,
            config=ff,
            seed=seed,
            git="abc-dirty",
            torch="2.1",
        )
    write_report(tmp_path)
    page = (tmp_path / "compare" / "index.html").read_text()
    for shown in (
        "<pre>python train.py -m algo=ff data.shift=1 &#39;model.widths=[8, 8]&#39; seed=0,1</pre>",
        '<a href="../deep/a%20run%3D1/">deep/a run=1</a>',
        "<code>abc-dirty</code>",
        "torch 2.1, ",
        "data.shift: 1\n",
    ):
        assert shown in page


def test_what_compare_did_not_write_it_leaves_as_it_is(tmp_path, no_figures):
    write_run(tmp_path / "run", data="digits")
    folder, victim = tmp_path / "compare", tmp_path / "victim"
    victim.write_text("mine")
    for name in ("index.html", "digits_loss.png"):
        for make in (lambda path: path.write_text("mine"), lambda path: path.symlink_to(victim), Path.mkdir):
            folder.mkdir()
            make(folder / name)
            with pytest.raises(ConfigError, match=f"{name}: was not written by"):
                write_report(tmp_path)
            assert [path.name for path in folder.iterdir()] == [name]
            shutil.rmtree(folder)
    folder.symlink_to(tmp_path / "run")
    with pytest.raises(ConfigError, match="no folder of this program"):
        write_report(tmp_path)
    folder.unlink()
    write_report(tmp_path)
    (folder / "notes.txt").write_text("mine")
    for path in (folder / "index.html", folder / "digits_acc.svg", folder / ".index.html.new"):
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
    write_report(tmp_path)  # again: over its own, also where a link lies by now
    assert (folder / "notes.txt").read_text() == victim.read_text() == "mine"
    assert not (folder / "index.html").is_symlink()


@pytest.mark.filterwarnings("error")
def test_epochs_that_were_not_validated_leave_no_gap_in_a_curve(tmp_path):
    nan = float("nan")
    histories = [[nan, 0.9, nan, 0.94], [nan, 0.92, nan, 0.96]]
    runs = [
        Run(
            {"data": "mnist"},
            {"epoch": [0.0] * 4, "time/epoch_seconds": [1.0] * 4, "val/acc": val, "train/acc": val},
            [],
        )
        for val in histories
    ]
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "plot", lambda axes, x, y, *line, **style: drawn.append((list(x), list(y))))
        draw([Group("a group", tuple(runs))], "acc", tmp_path / "acc.png")
    assert drawn[0][0] == [2, 4]
    assert drawn[0][1] == pytest.approx([91, 95])
    assert drawn[2][0] == [2, 4]  # seconds


def test_a_run_that_did_not_measure_a_quantity_has_no_part_in_its_curve():
    measured = {"time/epoch_seconds": [1.0, 3.0], "alignment/layer_0": [0.5, 0.25]}
    runs = tuple(Run({"data": "mnist"}, history, []) for history in (measured, {"time/epoch_seconds": [9.0] * 5}))
    found = curve(Group("a group", runs), "alignment/layer_0")
    assert [part.tolist() for part in found] == [[1, 2], [1, 4], [0.5, 0.25], [0, 0]]


def test_the_gap_divides_into_algorithm_and_network():
    cells = [a_run("bp", "cnn", 0, 0.99), a_run("bp", "mlp", 0, 0.97), a_run("ff", "mlp", 0, 0.94)]
    *_, sentence = conclusions(group_runs(cells))
    assert "5.00 points" in sentence
    assert "3.00 from the algorithm" in sentence
    assert "2.00 from the network" in sentence
    assert not any("from the network" in other for other in conclusions(group_runs(cells[:2])))


def test_sentences_compare_times_of_the_same_epochs_or_to_the_same_accuracy_only():
    def timed(algo: str, accuracies: list[float], seconds: float, **metrics: object) -> Run:
        run = a_run(algo, "mlp", 0, accuracies[-1])
        history = {"val/acc": accuracies, "time/epoch_seconds": [seconds] * len(accuracies)}
        whole = {"epochs": len(accuracies), "time/train_seconds": seconds * len(accuracies), "threads": 1}
        return Run(run.metrics | whole | metrics, history, run.overrides)

    slow, fast = timed("bp", [0.5, 0.8, 0.9, 0.95], 10.0), timed("ff", [0.7, 0.9], 1.0)
    answer, to_accuracy = conclusions(group_runs([slow, fast]))  # and no word on which training was shorter
    assert "“backprop, mlp” is the most accurate, with 95.00 % of the test images after 4 epochs" in answer
    assert "“Forward-Forward, mlp” comes to 90.00 % after 2 epochs, 5.00 points less." in answer
    assert "To reach 90.0 % on the validation images, “backprop, mlp” trains for 30.0 s" in to_accuracy
    assert to_accuracy.endswith("“Forward-Forward, mlp” for 2.0 s.")
    assert len(conclusions(group_runs([slow, timed("ff", [0.7, 0.9], 1.0, threads=8)]))) == 1
    [_, _, same_epochs] = conclusions(group_runs([slow, timed("ff", [0.1, 0.2, 0.8, 0.9], 2.0)]))
    assert same_epochs == "The same 4 epochs take “Forward-Forward, mlp” 8.0 s, and “backprop, mlp” 40.0 s."


def test_the_first_layers_picture_shows_weights_in_their_places():
    block = Block(torch.nn.Linear(4, 2))
    block.affine.weight.data = torch.tensor([[1.0, 0.0, -1.0, 0.5], [0.0, 0.0, 0.0, -2.0]])
    picture = first_layer_picture(block, (1, 2, 2), 64)
    assert picture[0, 1:3, 1:3].tolist() == [[1.0, 0.5], [0.0, 0.75]]
    assert picture[0, 1:3, 4:6].tolist() == [[0.5, 0.5], [0.5, 0.0]]
    assert first_layer_picture(Block(torch.nn.Conv2d(1, 8, 3)), (1, 28, 28), 4).dim() == 3
