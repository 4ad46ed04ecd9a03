"""What is asked in a notebook: a model its answers and what its layers do, and runs their tables."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, a_batch, fresh, settings

import ffbp
from ffbp.errors import CheckpointError, ConfigError
from ffbp.lifecycle.directory import RunDirectory, Status

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def moved(*words: str):
    """A model whose heads, too, are not zero."""
    model, generator = fresh(*words), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def test_images_may_be_arrays_or_tensors_of_bytes_or_floats_one_or_many():
    model = moved("algo=ff", "model=mlp", "model.widths=[16]").eval()
    bytes_ = (a_batch(6).images * 255).round().to(torch.uint8)  # (6, 1, 28, 28)
    floats = bytes_.float() / 255
    with torch.no_grad():
        wanted = model.answer(floats)
    for images in (bytes_, floats, bytes_[:, 0], floats[:, 0], floats.double()):
        assert torch.equal(model(images), wanted)
        assert torch.equal(model.predict(images), wanted.argmax(1))
        assert torch.allclose(model.probabilities(images), wanted.softmax(1))
        array = images.numpy()
        frozen = array.copy()
        frozen.flags.writeable = False
        for one in (array, frozen, array[::-1][::-1], array.astype(array.dtype.newbyteorder(">"))):
            found = model.predict(one)
            assert isinstance(found, np.ndarray)
            assert np.array_equal(found, wanted.argmax(1).numpy())
    for single in (bytes_[2], bytes_[2, 0], floats[2, 0].numpy()):  # (1, 28, 28) and (28, 28)
        assert model.predict(single).tolist() == [int(wanted[2].argmax())]
    many = bytes_.repeat(90, 1, 1, 1)  # more than are shown together
    assert torch.allclose(model(many), wanted.repeat(90, 1), atol=1e-5)
    assert model.predict(np.zeros((0, 28, 28), np.uint8)).shape == (0,)


WRONG = {
    "shape .* (2, 27, 28) found": np.zeros((2, 27, 28)),
    "shape .* (784,) found": np.zeros(784),
    "shape .* () found": torch.tensor(0.0),
    "shape .* (2, 3, 28, 28) found": torch.zeros(2, 3, 28, 28),
    "in [0, 1] expected": np.full((28, 28), 255.0),
    "in [0, 1] expected, int64 found": np.full((28, 28), 255),
    "in [0, 1] expected, object found": np.full((28, 28), None),
    "in [0, 1] expected, <U1 found": np.full((28, 28), "x"),
    "an array or a tensor expected, list found": [[0.0] * 28] * 28,
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_no_image_is_refused_in_one_line(message):
    model = fresh("algo=bp", "model=mlp", "model.widths=[8]")
    pattern = re.escape(message).replace(r"\.\*", ".*").replace("an\\ array", "a NumPy array")
    for ask in (model, model.predict, model.probabilities, model.activities_by_layer):
        with pytest.raises(ValueError, match=pattern) as refused:
            ask(WRONG[message])
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("algo", ["bp", "ff", "softhebb", "class_groups"])
def test_asking_leaves_a_model_as_it_is(algo):
    model = fresh(
        f"algo={algo}", "model=mlp", "model.widths=[16]", "model.batch_norm=true", "model.dropout=0.5"
    ).train()
    model.stack.blocks[0].after[0].eval()  # a part in another mode than the rest
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = a_batch(6).images
    given, random = images.clone(), torch.get_rng_state()
    questions = [model, model.predict, model.probabilities, model.activities_by_layer]
    questions += [model.goodness_by_layer] if algo in ("ff", "class_groups") else []
    for ask in questions:
        found = ask(images)
        assert not any(part.requires_grad for part in (found if isinstance(found, list) else [found]))
    with pytest.raises(ValueError, match="expected"):
        model.predict(torch.zeros(3))
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(images, given)


def layers_by_hand(model, images: np.ndarray, shown: np.ndarray) -> list[np.ndarray]:
    """A perceptron's activities under Forward-Forward, in double precision, with the pixels `shown` as the label."""
    x = images.astype(np.float64).reshape(len(images), -1)
    x[:, : len(shown)] = shown
    found = []
    for block in model.stack.blocks:
        weight, bias = (part.detach().double().numpy() for part in (block.affine.weight, block.affine.bias))
        found.append(np.maximum(x @ weight.T + bias, 0))  # (B, units)
        x = found[-1] / np.sqrt(np.square(found[-1]).mean(1, keepdims=True) + 1e-8)
    return found


def test_goodness_and_activities_of_forward_forward_equal_those_by_hand():
    words = ("algo=ff", "model=mlp", "model.widths=[16,12]", "algo.label_strength=1", "algo.label_embedding=overlay")
    model, images = moved(*words).double(), a_batch(5).images.numpy()
    found = model.goodness_by_layer(images)
    assert found.shape == (5, 2, 10)
    for label in range(10):
        for layer, activity in enumerate(layers_by_hand(model, images, np.eye(10)[label])):
            assert np.allclose(found[:, layer, label], np.square(activity).mean(1), rtol=1e-6)
    neutral = layers_by_hand(model, images, np.full(10, 0.1))
    for one, other in zip(model.activities_by_layer(images), neutral, strict=True):
        assert np.allclose(one, other, rtol=1e-6)


def test_each_rule_says_what_its_layers_do_or_has_no_goodness_to_tell():
    images = a_batch(5).images
    model = moved("algo=bp", "model=cnn").eval()
    activity = images
    for block, found in zip(model.stack.blocks, model.activities_by_layer(images), strict=True):
        with torch.no_grad():
            activity = block(activity)
        assert torch.equal(found, activity)
    for words in (("algo=bp",), ("algo=ff", "algo.negatives=hybrid", "algo.readout=softmax")):
        with pytest.raises(ConfigError, match="judge no labels"):
            fresh(*words, "model=mlp").goodness_by_layer(images)
    groups = moved("algo=class_groups", "model=mlp", "model.widths=[20]").eval()  # two units a class
    [activity] = groups.activities_by_layer(images)
    by_class = activity.view(5, 10, 2).square().mean(2)
    assert torch.allclose(groups.goodness_by_layer(images)[:, 0], by_class)
    assert torch.allclose(groups(images), by_class)


def a_run(path: Path, state: str, *words: str, epochs: int = 2) -> None:
    """What a run leaves in its directory."""
    directory, chosen = RunDirectory(path), settings(*words)
    directory.write_settings(chosen | {"paths": {"data_dir": "${oc.env:FFBP_DATA_DIR,data}"}}, words)
    directory.write_status(Status(state, words, None))
    lines = [f"{k},{25 * (k + 1)},0.5,0.{8 - k},,1.5" for k in range(epochs)]
    if lines:
        directory.rows.write_text("\n".join(["epoch,step,train/loss,val/acc,train/acc,time/epoch_seconds", *lines, ""]))
    if state == "finished":
        metrics = {"algo": chosen["algo"]["name"], "model": "mlp", "data": "digits", "seed": 0, "epochs": 2}
        metrics |= {"parameters": 9, "test/acc": 0.9, "val/acc": 0.8, "time/train_seconds": 4.5}
        directory.metrics.write_text(json.dumps(metrics))


def test_the_epochs_of_a_run_are_a_table(tmp_path):
    a_run(tmp_path / "run", "running", "algo=bp", "model=mlp")
    table = ffbp.history(tmp_path / "run")
    assert table["epoch"].tolist() == [0, 1]
    assert (table["step"].dtype, table["val/acc"].dtype, len(table)) == (np.int64, np.float64, 2)
    assert table["train/acc"].isna().all()
    a_run(tmp_path / "begun", "running", "algo=bp", "model=mlp", epochs=0)
    for name, message in {"begun": "no epoch has ended", "none": "contains no run"}.items():
        with pytest.raises(CheckpointError, match=message):
            ffbp.history(tmp_path / name)
    RunDirectory(tmp_path / "run").rows.write_text("epoch\n<script>")
    with pytest.raises(CheckpointError, match=r"metrics\.csv: cannot be read"):
        ffbp.history(str(tmp_path / "run"))


def test_runs_are_a_table_with_the_settings_in_which_they_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logs = Path("logs")
    a_run(logs / "z", "finished", "algo=bp", "model=mlp", "data.batch_size=25")
    a_run(logs / "ff" / "a", "interrupted", "algo=ff", "model=mlp", "seed=3", "algo.threshold=2.5")
    a_run(logs / "b", "finished", "algo=ff", "model=mlp")
    a_run(logs / "failed", "failed", "algo=bp", "model=cnn", epochs=0)
    a_run(logs / "damaged", "finished", "algo=bp", "model=mlp")
    (logs / "damaged" / "metrics.json").write_text("{")
    with pytest.warns(UserWarning, match="left out: logs/damaged/metrics.json"):
        table = ffbp.list_runs()
    assert table["path"].tolist() == ["logs/z", "logs/ff/a", "logs/b", "logs/failed"]  # as they were begun
    assert table["state"].tolist() == ["finished", "interrupted", "finished", "failed"]
    assert table["algo"].tolist() == ["bp", "ff", "ff", "bp"]
    assert table["model"].tolist() == ["mlp", "mlp", "mlp", "cnn"]
    assert table["seed"].tolist() == [0, 3, 0, 0]
    assert table["epochs"].tolist() == [2, 2, 2, 0]
    assert table["val/acc"].fillna(-1).tolist() == [0.8, 0.8, 0.8, -1]
    assert table["test/acc"].fillna(-1).tolist() == [0.9, -1, 0.9, -1]
    assert table["seconds"].fillna(-1).tolist() == [4.5, 3.0, 4.5, -1]
    assert {"data.batch_size", "algo.threshold"} <= set(table.columns)
    assert table["data.batch_size"].tolist()[0] == 25
    assert table["algo.threshold"].fillna(-1).tolist()[1:3] == [2.5, settings("algo=ff")["algo"]["threshold"]]
    assert not {"algo.name", "algo._target_", "seed.1", "trainer.max_epochs"} & set(table.columns)
    assert pd.api.types.is_datetime64_any_dtype(table["started"])
    with pytest.raises(CheckpointError, match="contains no runs"):
        ffbp.list_runs(tmp_path / "nothing")


def test_tables_need_no_pytorch(tmp_path, command):
    a_run(tmp_path / "logs" / "a", "finished", "algo=bp", "model=mlp")
    script = tmp_path / "table.py"
    script.write_text("import ffbp, sys; ffbp.list_runs(); ffbp.history('logs/a'); print('torch' in sys.modules)")
    assert command(script=str(script), PYTHONPATH=str(ROOT / "src")).stdout == "False\n"


WITHOUT = """
import sys, ffbp, lightning.pytorch as pl
from ffbp.lifecycle.load import load
assert not {"scipy.signal", "sklearn", "torchmetrics.functional"} & set(sys.modules)
import torchmetrics
assert torchmetrics.__version__[0].isdigit() and issubclass(torchmetrics.Metric, object)
assert "torchmetrics.functional" not in sys.modules
from torchmetrics import Accuracy, functional, MetricCollection  # whoever wants more gets all of it
assert functional.accuracy and issubclass(Accuracy(task="binary").__class__, torchmetrics.Metric)
assert torchmetrics.Metric is sys.modules["torchmetrics.metric"].Metric is pl.core.module.Metric
assert torchmetrics.MetricCollection is pl.core.module.MetricCollection is MetricCollection
assert type(torchmetrics).__name__ == "module"
"""


def test_a_model_is_loaded_without_what_is_not_used(tmp_path, command):
    script = tmp_path / "without.py"
    script.write_text(WITHOUT)
    assert command(script=str(script), PYTHONPATH=str(ROOT / "src")).stderr == ""


def test_the_notebook_runs(warm):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    kept = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert NOTEBOOK.stat().st_size < 300_000
    assert not any("/tmp" in str(output) or "/home" in str(output) or "/root" in str(output) for output in kept)
    words = re.search(r'SETTINGS = "(.*?)"', str(notebook.cells[1].source))[1].split()
    for rule in ("bp", "ff"):  # with which the notebook finds its runs trained
        run = f"hydra.run.dir=logs/notebook/{rule}"
        assert warm(f"algo={rule}", *words, run, "logger=none", "trainer.max_epochs=3").wait() == 0
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(warm.folder)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [set(output.get("data", {})) for output in outputs] == [set(output.get("data", {})) for output in kept]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 4
