"""A model as an ONNX file gives the scores that PyTorch gives, for any number of images."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, fresh, settings

from ffbp.algorithms import Algorithm, Backprop
from ffbp.data.sources import digits
from ffbp.errors import ConfigError
from ffbp.export import export_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SMALL = "model.channels=[12,11,10]"
ANSWERS = {
    "bp": ("algo=bp", "model=mlp", "model.batch_norm=true"),
    "ff by goodness": ("algo=ff", "model=mlp", "model.widths=[16,12]", "algo.readout=goodness"),
    "ff by goodness, waves, local": ("algo=ff", "model=local", SMALL, "algo.readout=goodness"),
    "ff by goodness, label units": (
        "algo=ff",
        "model=conv",
        SMALL,
        "algo.label_embedding=units",
        "algo.readout=goodness",
    ),
    "ff by softmax, channels": ("algo=ff", "model=conv", SMALL, "algo.label_embedding=channels"),
    "ff without labels": ("algo=ff", "model=mlp", "algo.negatives=hybrid", "algo.readout=softmax"),
    "local_loss": ("algo=local_loss", "model=cnn", "algo.readout=sum"),
    "class_groups": ("algo=class_groups", "model=conv", SMALL),
    "softhebb": ("algo=softhebb", "model=local", SMALL),
}


def a_model(*words: str) -> Algorithm:
    """An untrained model that answers, although heads start from zero."""
    model, generator = fresh(*words).eval(), torch.Generator().manual_seed(1)
    model.settings = settings(*words) | {"classes": 10, "class_names": [f"the {k}" for k in range(10)]}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


def some_images() -> np.ndarray:
    """Digits, and one that is black: (20, 1, 28, 28)."""
    images = digits()[1].images[:20].numpy()
    images[3] = 0
    return images


@pytest.mark.parametrize("name", ANSWERS)
def test_onnx_runtime_gives_pytorchs_scores(name, tmp_path):
    model, path, images = a_model(*ANSWERS[name]), tmp_path / "model.onnx", some_images()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = export_onnx(model, path, run=tmp_path / "the run")
    session = onnxruntime.InferenceSession(path)
    shown = (images / 255).astype(np.float32)
    wanted = model(images)
    for size in (1, 7, 20):
        (scores,) = session.run(["scores"], {"images": shown[:size]})
        assert scores.shape == (size, 10)
        assert np.abs(scores - wanted[:size]).max() <= 1e-4 * np.abs(wanted).max()
        assert np.array_equal(scores.argmax(1), model.predict(images[:size]))
    assert made.size == path.stat().st_size
    assert made.difference < 1e-4
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_the_file_says_what_it_is_for_and_may_take_bytes(tmp_path):
    model, path, images = a_model("algo=bp", "model=mlp"), tmp_path / "model.onnx", some_images()
    export_onnx(model, path, run=tmp_path / "the run", pixels="uint8")
    session = onnxruntime.InferenceSession(path)
    (scores,) = session.run(None, {"images": images})
    assert np.allclose(scores, model(images), rtol=1e-4, atol=1e-4)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["class_names"])[3] == "the 3"
    assert json.loads(said["input_shape"]) == ["N", 1, 28, 28]
    assert (said["run"], said["algo"], said["input_scale"]) == ("the run", "bp", "0 to 255")
    content = path.read_bytes()
    assert not any(str(place).encode() in content for place in (tmp_path, ROOT, sys.prefix))
    onnx.checker.check_model(str(path), full_check=True)


class Counting(Backprop):
    """Its answer takes the number of images as a constant."""

    def answer(self, images: torch.Tensor) -> torch.Tensor:
        return self.stack(images).view(len(images), -1)


class Deciding(Backprop):
    """Its answer depends on a number that only a run of it knows."""

    def answer(self, images: torch.Tensor) -> torch.Tensor:
        return self.stack(images) * (2 if images.sum().item() > 1 else 1)


@pytest.mark.parametrize(
    ("rule", "reason"), [(Counting, "fixes the number of images"), (Deciding, "cannot be written")]
)
def test_what_cannot_be_exported_says_why_and_writes_nothing(rule, reason, tmp_path):
    model = a_model("algo=bp", "model=mlp", "model.widths=[8]")
    model.__class__ = rule
    with pytest.raises(ConfigError, match=f"{rule.__name__} .*{reason}" if rule is Deciding else reason) as refused:
        export_onnx(model, tmp_path / "model.onnx", run=tmp_path)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_graph_is_not_written(tmp_path, monkeypatch):
    model = a_model("algo=bp", "model=mlp", "model.widths=[8]")
    monkeypatch.setattr("ffbp.export.Graph.forward", lambda self, images: self.model.answer(images) * torch.rand(()))
    with pytest.raises(ConfigError, match="differ from PyTorch's by"):
        export_onnx(model, tmp_path / "model.onnx", run=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"needs onnxscript.*pip install 'ffbp\[export\]'"):
        export_onnx(a_model("algo=bp", "model=mlp"), tmp_path / "model.onnx", run=tmp_path)


def test_evaluate_exports_a_run_and_replaces_nothing_but_its_own(warm):
    assert warm("data=digits", "trainer.max_epochs=1", "logger=none", "model=mlp", "hydra.run.dir=run").wait() == 0
    folder: Path = warm.folder
    for _ in range(2):  # its own is replaced
        exported = warm("run=run", "export=onnx", script="evaluate.py")
        assert (exported.wait(), exported.stderr) == (0, "")
        assert exported.stdout.startswith("run/model.onnx (0.4")
    assert onnxruntime.InferenceSession(folder / "run" / "model.onnx").get_inputs()[0].shape[1:] == [1, 28, 28]
    (folder / "mine.onnx").write_bytes(b"a model of mine")
    (folder / "link.onnx").symlink_to("run/model.onnx")
    for word in ("mine.onnx", "link.onnx", "model.txt", "run"):
        refused = warm("run=run", f"export={word}", script="evaluate.py")
        assert (refused.wait(), refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert (folder / "mine.onnx").read_bytes() == b"a model of mine"
    assert warm("run=run", "export=onnx", "images=x.png", script="evaluate.py").wait() == 2
