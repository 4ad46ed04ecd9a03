"""Runs on disk become groups, sentences and pictures."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes
from rich.console import Console

from ffbp.callbacks.pictures import first_layer_picture
from ffbp.errors import CheckpointError, ConfigError
from ffbp.models import Block
from ffbp.report.figures import draw
from ffbp.report.page import conclusions, row, terminal_table, write_report
from ffbp.report.runs import Group, Run, group_runs, read_runs


def a_run(algo: str, model: str, seed: int, accuracy: float, *overrides: str, data: str = "mnist") -> Run:
    metrics = {
        "algo": algo, "model": model, "data": data, "seed": seed, "epochs": 2, "parameters": 1000, "test/acc": accuracy,
        "val/acc": accuracy, "time/train_seconds": 3.0,
    }  # fmt: skip
    return Run(metrics, {"epoch": [0, 1], "val/acc": [0.5, accuracy]}, [f"seed={seed}", f"algo={algo}", *overrides])


def test_groups_differ_in_all_but_their_seed_best_first():
    runs = [a_run("bp", "mlp", seed, acc) for seed, acc in enumerate((0.90, 0.92, 0.94))]
    runs += [
        a_run("bp", "mlp", 0, 0.97, "data.shift=1"),
        a_run("ff", "mlp", 0, 0.80),
        a_run("bp", "mlp", 0, 0.5, data="digits"),
    ]
    groups = group_runs(runs)
    assert [(group.label, len(group.runs)) for group in groups] == [
        ("backprop, mlp, data.shift=1", 1),
        ("backprop, mlp", 3),
        ("Forward-Forward, mlp", 1),
        ("backprop, mlp", 1),
    ]
    assert groups[1].mean("test/acc") == pytest.approx(0.92)
    assert groups[1].deviation("test/acc") == pytest.approx(0.02)  # of a sample of three
    assert row(groups[1])["accuracy"] == "92.00 ± 2.00"
    assert row(groups[0])["accuracy"] == "97.00"
    assert row(groups[0])["goodness"] == "-"


COLUMNS = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "time/epoch_seconds")


def write_run(folder: Path, algo: str = "bp", *overrides: str, **changed: object) -> Path:
    """A finished run's files."""
    (folder / ".hydra").mkdir(parents=True)
    metrics = a_run(algo, "mlp", 0, 0.9).metrics | {"torch": "", "lightning": "", "device": "", "threads": 1}
    (folder / "metrics.json").write_text(json.dumps(metrics | changed))
    (folder / "metrics.csv").write_text(",".join(COLUMNS) + "\n0,1,0.8,1,0.9,3\n")
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))
    return folder


def test_the_page_has_a_column_for_every_read_out_that_any_run_has(tmp_path):
    for algo, readout in (("bp", {}), ("ff", {"test/acc_softmax": 0.8125}), ("own", {"test/acc_layer_1": 0.8125})):
        write_run(tmp_path / algo, algo, **readout)
    write_report(tmp_path)
    page = (tmp_path / "compare" / "index.html").read_text()
    assert "<th>by layer_1, %</th><th>by softmax, %</th>" in page
    assert "by goodness" not in page
    assert page.count("<td>81.25</td>") == 2
    assert page.count("<td>-</td>") == 4 + 3 * 3  # and no run has said what its steps cost


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *[("metrics.json", text) for text in ("", "{", "[]", "null", "[" * 9000, "9" * 5000, "{}", " " * 2_000_000)],
        *[("metrics.json", {key: None}) for key in ("algo", "test/acc", "epochs", "time/train_seconds")],
        *[("metrics.json", {"test/acc": value}) for value in (float("nan"), float("inf"), -1, "x", [1])],
        *[("metrics.json", {"data": value}) for value in ("x" * 300, "\x1b[31m", "a\nb")],
        ("metrics.json", {"test/acc_softmax": "x"}),
        *[("metrics.csv", text) for text in ("", "epoch\n", "epoch\n0\n", "a,b\n1\n", '"' * 200_000, "\0")],
        *[("metrics.csv", ",".join(COLUMNS) + f"\n0,{value},1,1,1,1\n") for value in ("inf", "x", "1,1", "1e300")],
        *[(".hydra/overrides.yaml", text) for text in ("a: 1", "[", "\0", "&a [*a]", "- " * 3000, "x" * 200_000)],
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


def test_names_in_a_strangers_run_are_words_and_lead_nowhere(tmp_path):
    for number, name in enumerate(HOSTILE):
        write_run(tmp_path / "logs" / str(number), name, name, data=name)
    groups = write_report(tmp_path / "logs")
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


def test_what_compare_did_not_write_it_leaves_as_it_is(tmp_path):
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


def test_the_gap_divides_into_algorithm_and_network():
    cells = [a_run("bp", "cnn", 0, 0.99), a_run("bp", "mlp", 0, 0.97), a_run("ff", "mlp", 0, 0.94)]
    [_, sentence] = conclusions(group_runs(cells))
    assert "5.00 points" in sentence
    assert "3.00 from the algorithm" in sentence
    assert "2.00 from the network" in sentence
    assert len(conclusions(group_runs(cells[:2]))) == 1


def test_the_first_layers_picture_shows_weights_in_their_places():
    block = Block(torch.nn.Linear(4, 2))
    block.affine.weight.data = torch.tensor([[1.0, 0.0, -1.0, 0.5], [0.0, 0.0, 0.0, -2.0]])
    picture = first_layer_picture(block, (1, 2, 2), 64)
    assert picture[0, 1:3, 1:3].tolist() == [[1.0, 0.5], [0.0, 0.75]]
    assert picture[0, 1:3, 4:6].tolist() == [[0.5, 0.5], [0.5, 0.0]]
    assert first_layer_picture(Block(torch.nn.Conv2d(1, 8, 3)), (1, 28, 28), 4).dim() == 3
