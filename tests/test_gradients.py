"""callbacks=gradients: the norms and the dead units are right, and nothing else changes."""

import csv
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from conftest import settings
from same_run import assert_equal
from test_ddp import SHARED, TWO, assert_same_measures
from test_resume import Broken

import ffbp
from ffbp.errors import ConfigError
from ffbp.files import CONF
from ffbp.lifecycle import train as run
from ffbp.lifecycle.checkpoint import read_checkpoint

ALGORITHMS = sorted(path.stem for path in (CONF / "algo").glob("*.yaml"))
ON = ("callbacks=gradients", "callbacks.gradients.every_n_steps=2")
SHORT = ("model=mlp", "model.widths=[32,16]", "trainer.max_epochs=2", "trainer.limit_train_batches=5")


def rows(directory: Path) -> list[dict[str, float]]:
    with (directory / "metrics.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


class Noted(pl.Callback):
    """Note the gradients of each step, as NumPy arrays."""

    steps: list[list[np.ndarray]]

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        Noted.steps.append([p.grad.double().numpy().copy() for p in pl_module.parameters()])


class Shifted(pl.Callback):
    """Give the first units of each layer such biases that no image can change what they say."""

    def __init__(self, bias: float) -> None:
        self.bias = bias

    def on_train_start(self, trainer, pl_module):
        for k, block in enumerate(pl_module.stack.blocks):
            block.affine.bias.data[: k + 1] = self.bias


def test_norms_are_the_lengths_of_the_gradients_of_the_steps_looked_at(tmp_path):
    chosen = settings("algo=bp", *SHORT, *ON, "trainer.gradient_clip_val=0.1")
    chosen["callbacks"] |= {"noted": {"_target_": f"{__name__}.Noted"}}
    Noted.steps = []
    run.train(chosen, tmp_path, bar=False)
    assert len(Noted.steps) == 10
    for row, looked_at in zip(rows(tmp_path), ((0, 2, 4), (6, 8)), strict=True):
        for k, name in enumerate(("layer_0", "layer_1", "head")):
            pairs = [Noted.steps[step][2 * k : 2 * k + 2] for step in looked_at]  # weight and bias
            lengths = [np.sqrt(sum(np.square(part).sum() for part in pair)) for pair in pairs]
            assert row[f"gradients/{name}/norm"] == pytest.approx(np.mean(lengths), rel=1e-6)


def validation_images(directory: Path) -> torch.Tensor:
    chosen = read_checkpoint(directory / "checkpoints" / "last.ckpt")["ffbp"]["data"]
    data = ffbp.data.ImageData(**{k: v for k, v in chosen.items() if k not in ("_target_", "name")}, seed=0)
    data.setup("fit")
    return data.val.images.float() / 255


@pytest.mark.parametrize(
    ("activation", "bias", "derivative"),
    [
        ("relu", -100.0, lambda a: np.float64(a > 0)),
        ("tanh", -100.0, lambda a: 1 - a * a),
        ("tanh", 100.0, lambda a: 1 - a * a),
        ("sigmoid", -100.0, lambda a: 4 * a * (1 - a)),
        ("sigmoid", -5.3, lambda a: 4 * a * (1 - a)),  # nearly, but not dead
    ],
)
def test_a_unit_is_dead_if_its_derivative_is_next_to_nothing_on_all_validation_images(
    activation, bias, derivative, tmp_path
):
    words = (*SHORT, *ON, "trainer.max_epochs=1", f"model.activation={activation}", "data.eval_batch_size=77")
    chosen = settings("algo=bp", *words)
    chosen["callbacks"] |= {"shifted": {"_target_": f"{__name__}.Shifted", "bias": bias}}
    run.train(chosen, tmp_path, bar=False)
    model = ffbp.load(tmp_path / "checkpoints" / "last.ckpt")
    [row] = rows(tmp_path)
    for k, activity in enumerate(model.stack.activities(validation_images(tmp_path))):
        dead = derivative(activity.detach().double().numpy()).max(0) < 0.01
        assert row[f"units/layer_{k}/dead"] == pytest.approx(dead.mean())
        assert dead[: k + 1].all() == (abs(bias) == 100)


def test_a_map_is_dead_if_it_is_so_at_every_position(tmp_path):
    chosen = settings("algo=bp", "model=cnn", *ON, "trainer.max_epochs=1", "trainer.limit_train_batches=2")
    chosen["callbacks"] |= {"shifted": {"_target_": f"{__name__}.Shifted", "bias": -100.0}}
    run.train(chosen, tmp_path, bar=False)
    model, activity = ffbp.load(tmp_path / "checkpoints" / "last.ckpt"), validation_images(tmp_path)
    [row] = rows(tmp_path)
    for k, block in enumerate(model.stack.blocks):
        dead = (block.product(activity) <= 0).transpose(0, 1).flatten(1).all(1)  # (units,)
        activity = block(activity)
        assert dead[: k + 1].all()
        assert row[f"units/layer_{k}/dead"] == pytest.approx(dead.double().mean().item())


@pytest.mark.parametrize("algo", [algo for algo in ALGORITHMS if algo != "lm"])  # which has no gradients
def test_a_run_ends_with_the_same_bits_with_it_and_without_it(algo, tmp_path):
    words = (f"algo={algo}", *SHORT, "model.dropout=0.3", "data.shift=1", "trainer.limit_val_batches=1")
    words += ("model.batch_norm=true",) if algo in ("bp", "local_loss") else ()
    words += ("algo.readout_share=0.0",) if algo == "softhebb" else ()
    run.train(settings(*words), tmp_path / "without", bar=False)
    run.train(settings(*words, *ON), tmp_path / "with", bar=False)
    ends = [read_checkpoint(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("without", "with")]
    for part in ("state_dict", "optimizer_states"):
        assert_equal(ends[0][part], ends[1][part])
    for before, after in zip(rows(tmp_path / "without"), rows(tmp_path / "with"), strict=True):
        added = after.keys() - before.keys()
        assert {name: after[name] for name in before if "time/" not in name} == {
            name: value for name, value in before.items() if "time/" not in name
        }
        layers = () if algo == "random_features" else ("layer_0", "layer_1")
        head = () if algo == "class_groups" else ("head",)
        assert added == {f"gradients/{name}/norm" for name in (*layers, *head)} | {
            f"units/layer_{k}/dead" for k in range(2)
        }


class BreakAt(pl.Callback):
    """Break off in the middle of the second epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 8:
            raise Broken


def test_a_resumed_run_measures_the_same(tmp_path):
    chosen = settings("algo=bp", *SHORT, *ON, "checkpoint.every_n_steps=7")
    run.train(chosen, tmp_path / "whole", bar=False)
    breaking = chosen | {"callbacks": chosen["callbacks"] | {"break": {"_target_": f"{__name__}.BreakAt"}}}
    with pytest.raises(Broken):
        run.train(breaking, tmp_path / "broken", bar=False)
    run.train(chosen, tmp_path / "broken", resume=True, bar=False)
    whole, broken = (
        [{k: v for k, v in row.items() if "time/" not in k} for row in rows(tmp_path / name)]
        for name in ("whole", "broken")
    )
    assert whole == broken


def test_two_processes_measure_what_one_does(warm):
    words = ["algo=bp", *SHARED, *ON, "trainer.max_epochs=1", "data.eval_batch_size=67", "algo.optimizer.lr=0.5"]
    words += ["trainer.limit_train_batches=9", "trainer.limit_test_batches=1"]
    one = warm(*words, "trainer=cpu", "hydra.run.dir=one")
    two = warm(*words, *TWO, "hydra.run.dir=two")
    assert one.wait() == 0, one.stderr
    assert two.wait() == 0, two.stderr
    assert any(row["units/layer_1/dead"] > 0 for row in rows(warm.folder / "one"))
    assert_same_measures(warm.folder / "one", warm.folder / "two")


@pytest.mark.parametrize(
    ("word", "reason"),
    [("compile=true", "hides the units"), ("algo.optimizer=null", "has no gradients")],
)
def test_what_it_cannot_look_at_is_refused(word, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "require_compiler", lambda device: None)
    with pytest.raises(ConfigError, match=reason):
        run.train(settings("algo=bp", *SHORT, *ON, "algo.schedule=constant", word), tmp_path, bar=False)


def test_where_nothing_is_validated_only_the_gradients_are_measured(tmp_path):
    run.train(settings("algo=bp", *SHORT, *ON, "data.val_size=0"), tmp_path, bar=False)
    names = rows(tmp_path)[0].keys()
    assert "gradients/layer_0/norm" in names
    assert not any(name.startswith("units/") for name in names)
