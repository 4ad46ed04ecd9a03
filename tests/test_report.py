"""Runs on disk become groups, sentences and pictures."""

import json

import pytest
import torch
from matplotlib.axes import Axes

from ffbp.callbacks.pictures import first_layer_picture
from ffbp.models import Block
from ffbp.report.figures import draw
from ffbp.report.page import conclusions, row, write_report
from ffbp.report.runs import Group, Run, group_runs


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


def test_the_page_has_a_column_for_every_read_out_that_any_run_has(tmp_path):
    for algo, readout in (("bp", None), ("ff", "softmax"), ("own", "layer_1")):
        (folder := tmp_path / algo / ".hydra").mkdir(parents=True)
        metrics = a_run(algo, "mlp", 0, 0.9).metrics | {"torch": "", "lightning": "", "device": "", "threads": 1}
        metrics |= {f"test/acc_{readout}": 0.8125} if readout else {}
        (tmp_path / algo / "metrics.json").write_text(json.dumps(metrics))
        columns = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "time/epoch_seconds")
        (tmp_path / algo / "metrics.csv").write_text(",".join(columns) + "\n0,1,0.8,1,0.9,3\n")
        (folder / "overrides.yaml").write_text("[]")
    write_report(tmp_path)
    page = (tmp_path / "compare" / "index.html").read_text()
    assert "<th>by layer_1, %</th><th>by softmax, %</th>" in page
    assert "by goodness" not in page
    assert page.count("<td>81.25</td>") == 2
    assert page.count("<td>-</td>") == 4


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
