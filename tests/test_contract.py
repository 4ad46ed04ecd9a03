"""The contract of a rule: what it returns, and what the base class makes of that."""

import json
import math
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from conftest import a_batch, fresh, settings
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

import ffbp
from ffbp.algorithms import Algorithm, Backprop, Step
from ffbp.algorithms.optimizers import schedule_gain
from ffbp.algorithms.step import WholeStep
from ffbp.data import Batch
from ffbp.errors import ConfigError
from ffbp.files import CONF
from ffbp.lifecycle.checkpoint import read_checkpoint
from ffbp.lifecycle.directory import RunDirectory, Status
from ffbp.lifecycle.train import train
from ffbp.models import Block
from ffbp.models.local_layer import LocalConv2d

SHORT = ("model=mlp", "model.widths=[32,16]", "trainer.max_epochs=2", "trainer.limit_train_batches=5")


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return ffbp.load(directory / "checkpoints" / "last.ckpt").state_dict()


class WrittenBackprop(Algorithm):
    """Backpropagation that returns gradients in place of its loss."""

    def step(self, batch: Batch) -> Step:
        logits = self.stack(batch.images)
        parameters = list(self.stack.parameters())
        gradients = torch.autograd.grad(cross_entropy(logits, batch.labels), parameters)
        return Step(logits, gradients=dict(zip(parameters, gradients, strict=True)))


@pytest.mark.parametrize(
    "setting", ["seed=0", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=0.1", "data.batch_size=99"]
)
def test_gradients_in_place_of_a_loss_train_to_the_same_bits(setting, tmp_path):
    chosen = settings("algo=bp", *SHORT, setting)
    train(chosen, tmp_path / "loss", bar=False)
    chosen["algo"]["_target_"] = f"{__name__}.WrittenBackprop"
    del chosen["algo"]["loss"]
    train(chosen, tmp_path / "gradients", bar=False)
    expected = weights(tmp_path / "loss")
    found = read_checkpoint(tmp_path / "gradients" / "checkpoints" / "last.ckpt")["state_dict"]
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


class RidgeHead(Algorithm):
    """Solve for the head by ridge regression on all batches seen so far: a rule with a solver of its own."""

    def __init__(self, stack, **others) -> None:
        super().__init__(stack, optimizer=None, **others)
        nn.init.zeros_(stack.head.affine.bias)
        features = stack.head.affine.in_features
        self.register_buffer("moments", torch.eye(features))
        self.register_buffer("targets", torch.zeros(features, stack.classes))

    @torch.no_grad()
    def step(self, batch: Batch) -> Step:
        *_, features = self.stack.activities(batch.images)
        self.moments += features.T @ features
        self.targets += features.T @ one_hot(batch.labels, self.stack.classes).float()
        self.stack.head.affine.weight.copy_(torch.linalg.solve(self.moments, self.targets).T)
        return Step(self.stack.head(features), measures={"ridge/condition": torch.linalg.cond(self.moments)})


def test_a_rule_with_a_solver_of_its_own_needs_no_optimizer(tmp_path):
    chosen = settings("algo=bp", *SHORT, "algo.schedule=constant", "checkpoint.every_n_steps=3")
    chosen["algo"] = {"_target_": f"{__name__}.RidgeHead", "name": "ridge", "schedule": "constant"}
    metrics = train(chosen, tmp_path, bar=False)
    assert metrics["test/acc"] > 0.4  # sixteen random features, ten batches
    assert read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 10  # its batches are counted
    assert "ridge/condition" in (tmp_path / "metrics.csv").read_text()
    longer = chosen | {"trainer": chosen["trainer"] | {"max_epochs": 3}}
    train(longer, tmp_path, resume=True, bar=False)
    assert json.loads((tmp_path / "metrics.json").read_text())["epochs"] == 3


def test_a_measure_that_is_added_later_breaks_no_earlier_checkpoint(tmp_path, monkeypatch):
    chosen = settings("algo=bp", *SHORT, "algo.schedule=constant")
    train(chosen, tmp_path, bar=False)
    step = Backprop.step
    monkeypatch.setattr(
        Backprop, "step", lambda self, batch: step(self, batch)._replace(measures={"new": torch.ones(())})
    )
    longer = chosen | {"trainer": chosen["trainer"] | {"max_epochs": 3}}
    train(longer, tmp_path, resume=True, bar=False)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert rows[0].split(",")[-1] == "new"
    assert [row.split(",")[-1] for row in rows[1:]] == ["", "", "1.0"]


BLOCKS = {
    "dense": (Block(nn.Linear(48, 5)), (3, 4, 4)),
    "convolution": (Block(nn.Conv2d(3, 5, 3, stride=2, padding=1)), (3, 7, 6)),
    "local": (Block(LocalConv2d(3, 5, (7, 6), kernel_size=3, stride=2)), (3, 7, 6)),
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_pull_of_an_error_on_the_weights_equals_autograds(kind):
    block, shape = BLOCKS[kind]
    block = block.double()
    x = torch.rand(4, *shape, dtype=torch.double)
    product = block.product(x)
    delta = torch.randn_like(product)
    expected = torch.autograd.grad(product, list(block.affine.parameters()), delta)
    found = block.pull(x, delta)
    assert list(found) == list(block.affine.parameters())
    for a, b in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_second_pass_drops_the_same_units_and_moves_no_running_mean():
    algorithm, batch = fresh("algo=bp", "model=mlp", "model.dropout=0.5", "model.batch_norm=true"), a_batch()
    algorithm.seed_modules(batch)
    first = algorithm.stack(batch.images)
    norm = algorithm.stack.blocks[0].after[0]
    means = norm.running_mean.clone()
    torch.rand(3)  # whatever is drawn in between
    with algorithm.second_pass(batch):
        assert torch.equal(algorithm.stack(batch.images), first)
        assert torch.equal(norm.running_mean, means)
    assert not torch.equal(algorithm.stack(batch.images), first)
    assert not torch.equal(norm.running_mean, means)


def test_a_stack_has_a_head_or_none_and_makes_one_for_any_number_of_features():
    stack = fresh("algo=bp", "model=mlp", "model.dropout=0.25").stack
    assert stack.without_head().head is None
    assert (stack.make_head(7).affine.in_features, stack.make_head(7).dropout.p) == (7, 0.25)
    assert stack.make_head(dropout=0.0).affine.in_features == 128


@pytest.mark.parametrize("local", [False, True])
def test_no_gradient_crosses_a_block_of_local_activities(local):
    stack, batch = fresh("algo=bp", "model=mlp", "model.widths=[32,16]").stack, a_batch()
    *_, top = stack.activities(batch.images, local=local)
    top.sum().backward()
    assert (stack.blocks[0].affine.weight.grad is None) == local
    assert stack.blocks[1].affine.weight.grad is not None


class Rates(pl.Callback):
    """Note the learning rate of each batch."""

    noted: list[float]

    def on_train_start(self, trainer, pl_module):
        Rates.noted = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        Rates.noted.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.mark.parametrize(("ends", "batches"), [("max_epochs=2", 10), ("max_steps=7", 7)])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_learning_rate_follows_its_schedule_over_the_whole_training(ends, batches, accumulated, tmp_path):
    if (ends, accumulated) == ("max_steps=7", 2):
        batches = 5 + 5 + 2  # five batches make three steps
    chosen = settings("algo=bp", *SHORT, "trainer.max_epochs=9", "algo.optimizer.lr=1.0", f"trainer.{ends}")
    chosen["trainer"]["accumulate_grad_batches"] = accumulated
    chosen["callbacks"] = {"rates": {"_target_": f"{__name__}.Rates"}}
    train(chosen, tmp_path, bar=False)
    expected = [schedule_gain("cooldown", (k + 0.5) / batches) for k in range(len(Rates.noted))]
    assert len(Rates.noted) == batches
    assert Rates.noted == pytest.approx(expected)


# -- direct feedback alignment


def test_direct_feedback_alignment_equals_its_formulas_by_hand():
    algorithm = fresh("algo=feedback", "model=mlp", "model.widths=[12,8]").double()
    batch = a_batch(5)
    x, y = batch.images.double().flatten(1).numpy(), np.eye(10)[batch.labels.numpy()]
    first, second, head = (block.affine for block in (*algorithm.stack.blocks, algorithm.stack.head))
    w = [layer.weight.detach().numpy() for layer in (first, second, head)]
    b = [layer.bias.detach().numpy() for layer in (first, second, head)]
    h1 = np.maximum(x @ w[0].T + b[0], 0)
    h2 = np.maximum(h1 @ w[1].T + b[1], 0)
    z = h2 @ w[2].T + b[2]
    e = (np.exp(z) / np.exp(z).sum(1, keepdims=True) - y) / 5
    roads = algorithm.roads.numpy()
    d1, d2 = (e @ roads[:, :12]) * (h1 > 0), (e @ roads[:, 12:]) * (h2 > 0)
    expected = [d1.T @ x, d1.sum(0), d2.T @ h1, d2.sum(0), e.T @ h2, e.sum(0)]
    step = algorithm.step(batch._replace(images=batch.images.double()))
    for parameter, gradient in zip(algorithm.parameters(), expected, strict=True):
        assert np.allclose(step.gradients[parameter].numpy(), gradient, rtol=1e-6, atol=1e-12)


def test_on_maps_the_error_reaches_every_position():
    """Against plain autograd: each layer alone, given the error that its matrix brings."""
    algorithm = fresh("algo=feedback", "model=cnn").double()
    batch = a_batch(4)
    images = batch.images.double()
    step = algorithm.step(batch._replace(images=images))
    error = (step.logits.softmax(1) - one_hot(batch.labels, 10)).detach() / 4
    below, start = images, 0
    for block in algorithm.stack.blocks:
        activity = block(below)
        units = math.prod(activity.shape[1:])
        brought = (error @ algorithm.roads[:, start : start + units]).reshape(activity.shape)
        expected = torch.autograd.grad((activity * brought).sum(), list(block.parameters()))
        for parameter, gradient in zip(block.parameters(), expected, strict=True):
            torch.testing.assert_close(step.gradients[parameter], gradient, rtol=1e-6, atol=1e-12)
        below, start = activity.detach(), start + units


def test_random_features_learn_in_the_head_alone(tmp_path):
    train(settings("algo=random_features", *SHORT), tmp_path, bar=False)
    before, after = fresh("algo=random_features", *SHORT).state_dict(), weights(tmp_path)
    assert [name for name in after if not torch.equal(before[name], after[name])] == [
        "stack.head.affine.weight",
        "stack.head.affine.bias",
    ]


# -- compile=true


TAKES_LAYERS_APART = ("bp_explicit", "forward_gradient", "lm", "pepita")


@pytest.mark.parametrize("algo", sorted(path.stem for path in (CONF / "algo").glob("*.yaml")))
def test_what_is_compiled_is_what_is_called(algo, tmp_path, monkeypatch):
    compiled, called, in_training = {}, set(), set()

    def note(module: nn.Module, *, dynamic: bool) -> None:
        assert dynamic is False  # or what a size is compiled to would depend on the sizes before

        def call(*inputs, plain=module._call_impl, **named):
            called.add(module)
            if module.training and torch.is_grad_enabled():
                in_training.add(module)
            return plain(*inputs, **named)

        compiled[module] = call
        module._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", note)
    chosen = settings(f"algo={algo}", *SHORT, "compile=true")
    if algo in TAKES_LAYERS_APART:
        with pytest.raises(ConfigError, match="compile=true"):
            train(chosen, tmp_path, bar=False)
        return
    train(chosen, tmp_path, bar=False)
    assert in_training
    products = {module for module in called if isinstance(module, nn.Linear)}
    products |= {module.affine for module in called if isinstance(module, Block)}
    assert called == set(compiled)
    if algo in ("bp", "ff"):  # all that is computed for a batch, as one
        assert [type(module) for module in called] == [WholeStep]
    else:
        assert len(products) == 2 + (algo != "class_groups")  # two layers, and a head where there is one


# -- trainers that do not fit


def test_a_run_that_is_rejected_late_removes_its_own_files_alone(tmp_path):
    (tmp_path / "events.out.tfevents.mine").touch()
    directory = RunDirectory(tmp_path)

    def rejected_late() -> None:
        with directory.emptied_if_rejected():
            directory.write_status(Status("running", []))
            (tmp_path / "other").mkdir()  # of somebody else, meanwhile
            (tmp_path / "other" / "file").touch()
            raise ConfigError("too late")

    with pytest.raises(ConfigError):
        rejected_late()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.out.tfevents.mine", "other"]
    assert (tmp_path / "other" / "file").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("algo=ff", "trainer.gradient_clip_val=1"), "gradient_clip_val.*cannot be set"),
        (("algo=ff", "trainer.accumulate_grad_batches=2"), "accumulate_grad_batches cannot be set"),
        (("algo=bp", "trainer.max_epochs=-1", "trainer.max_time={minutes:1}"), "algo.schedule=cooldown"),
        (("algo=ff", "algo.order=sequential", "trainer.max_epochs=1"), "2 or more"),
    ],
)
def test_a_trainer_that_a_rule_cannot_work_with_is_rejected_before_anything_is_written(words, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        train(settings(*SHORT, *words), tmp_path / "run", bar=False)
    assert not (tmp_path / "run").exists()
