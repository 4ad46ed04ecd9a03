"""What is measured beside accuracy: figures against hand-computed ones, and trainings that do not notice it."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import a_batch, fresh, settings
from torch import nn
from torch.utils._python_dispatch import _len_torch_dispatch_stack

from ffbp.algorithms import Backprop
from ffbp.callbacks.alignment import alignment, backprop_gradients
from ffbp.callbacks.costs import Meter, meter_of_answer
from ffbp.errors import CheckpointError, ConfigError
from ffbp.files import CONF
from ffbp.lifecycle.checkpoint import read_checkpoint
from ffbp.lifecycle.train import train
from ffbp.metrics import read_metrics

RULES = sorted(path.stem for path in (CONF / "algo").glob("*.yaml"))
SHORT = ("model=mlp", "model.widths=[32,16]", "trainer.max_epochs=2", "trainer.limit_train_batches=3")
TWO_STEPS = ("trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.limit_val_batches=1")
EVERY_BATCH, NOTHING = ("callbacks=alignment", "callbacks.alignment.every_n_steps=1"), ("~callbacks.costs",)
COSTS = ("memory/step_mib", "work/train_macs", "work/answer_macs")


def rows_of(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


# -- costs


def test_memory_is_that_of_tensors_in_use_counted_once():
    layer, x = nn.Linear(1000, 500), torch.rand(100, 1000)
    product, weights = 100 * 500 * 4, 500 * 1000 * 4
    with Meter() as meter:
        z = layer(x)
        assert meter.alive == product
        h = z.relu()
        assert meter.alive == 2 * product
        z = h.view(-1)  # the same memory; relu remembers what it made, and not what it saw
        assert meter.alive == product
        loss = z.sum()
        loss.backward()
        # the gradients, the activity and the loss; at its peak also the error at the product, and the gradient 1
        assert meter.alive == weights + 500 * 4 + product + 4
        assert meter.peak == weights + 500 * 4 + 2 * product + 2 * 4
        del z, h, loss
        layer.weight.grad = None
        assert meter.alive == 500 * 4  # of the biases
    torch.rand(1000)
    assert meter.alive == 500 * 4  # it was left
    assert meter.macs == 2 * 100 * 1000 * 500  # forward, and the gradient of the weights; none for the image


def dense(*widths: int) -> int:
    """The products of an image with dense layers."""
    return sum(below * above for below, above in pairwise(widths))


STEPS = {  # multiply-adds for an image: of a training step, and of an answer
    # forward, gradients of the weights, errors sent back to the layers but not to the image
    "algo=bp": (2 * dense(784, 32, 16, 10) + dense(32, 16, 10), dense(784, 32, 16, 10)),
    "algo=bp_explicit": (2 * dense(784, 32, 16, 10) + dense(32, 16, 10), dense(784, 32, 16, 10)),
    # each layer's error comes straight from the ten of the top
    "algo=feedback": (2 * dense(784, 32, 16, 10) + 10 * (32 + 16), dense(784, 32, 16, 10)),
    # as backpropagation, down another road
    "algo=feedback algo.feedback=fa": (2 * dense(784, 32, 16, 10) + dense(32, 16, 10), dense(784, 32, 16, 10)),
    "algo=random_features": (dense(784, 32, 16, 10) + dense(16, 10), dense(784, 32, 16, 10)),
    # two passes, and the error brought to the image
    "algo=pepita": (3 * dense(784, 32, 16, 10) + 10 * 784, dense(784, 32, 16, 10)),
}


@pytest.mark.parametrize("rule", STEPS)
def test_multiply_adds_are_those_of_the_formulas(rule, tmp_path):
    metrics = train(settings(*rule.split(), *SHORT), tmp_path, bar=False)
    assert (metrics["work/train_macs"], metrics["work/answer_macs"]) == STEPS[rule]


def test_multiply_adds_of_convolutions_are_those_of_their_windows(tmp_path):
    words = ("model=conv", "model.channels=[4,6]", "model.kernel_sizes=[3,3]", "model.strides=[2,2]")
    metrics = train(settings("algo=bp", *SHORT[2:], *words), tmp_path, bar=False)
    first, second, head = 14 * 14 * 4 * 9, 7 * 7 * 6 * 4 * 9, 7 * 7 * 6 * 10
    assert metrics["work/answer_macs"] == first + second + head
    assert metrics["work/train_macs"] == 2 * first + 3 * second + 3 * head


def test_the_memory_of_a_step_is_that_of_activities_and_gradients(tmp_path):
    deep = ("model=mlp", f"model.widths={[64] * 10}", *TWO_STEPS)
    found = {}
    for rule, images in (("bp", 1000), ("random_features", 1000), ("bp", 4)):
        chosen = settings(f"algo={rule}", f"data.batch_size={images}", *deep)
        found[rule, images] = train(chosen, tmp_path / f"{rule}_{images}", bar=False)["memory/step_mib"] * 2**20
    layer, logits, gradients = 1000 * 64 * 4, 1000 * 10 * 4, (784 * 64 + 64 + 9 * (64 * 64 + 64) + 650) * 4
    # random features hold the same activities, but only the head has gradients
    assert 10 * layer < found["random_features", 1000] < 10 * layer + 4 * logits
    # an activity is held until its error has been sent down; the first layer's gradients come last
    assert max(10 * layer, gradients) < found["bp", 1000] < 12 * layer + gradients
    assert gradients < found["bp", 4] < 1.1 * gradients  # the state of Adam, twice as much, is not part of it


@pytest.mark.parametrize(("rule", "model"), [*((rule, "mlp") for rule in RULES if rule != "lm"), ("ff", "conv")])
def test_measuring_changes_no_bit_of_a_training(rule, model, tmp_path):
    words = [f"algo={rule}", f"model={model}", "model.dropout=0.2", "data.shift=1", "data.batch_size=20", *TWO_STEPS]
    words += ["model.widths=[32,16]"] if model == "mlp" else ["model.channels=[10,11]", "model.kernel_sizes=[3,3]"]
    words += ["model.batch_norm=true"] if model == "mlp" and rule in ("bp", "ff") else []
    words += ["model.strides=[2,2]"] if model == "conv" else []
    ends = []
    for measuring in (True, False):
        directory = tmp_path / str(measuring)
        metrics = train(settings(*words, *(EVERY_BATCH if measuring else NOTHING)), directory, bar=False)
        weights = read_checkpoint(directory / "checkpoints" / "last.ckpt")["state_dict"]
        ends.append((weights, torch.get_rng_state()))
        assert all((metrics.get(name, 0) > 0) == measuring for name in COSTS)
        aligned = [name for name in rows_of(directory)[0] if name.startswith("alignment/")]
        assert len(aligned) == (2 if measuring and rule != "random_features" else 0)
    (weights, generator), (others, other_generator) = ends
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert torch.equal(generator, other_generator)


def test_an_answer_is_counted_in_evaluation_and_leaves_all_as_it_was():
    algorithm, batch = fresh("algo=bp", "model=mlp", "model.dropout=0.5", "model.batch_norm=true"), a_batch()
    algorithm.train()
    algorithm.stack.blocks[0].dropout.eval()  # as somebody may have set it
    before, generator = {k: v.clone() for k, v in algorithm.state_dict().items()}, torch.get_rng_state()
    modes = [module.training for module in algorithm.modules()]
    assert meter_of_answer(algorithm, batch.images).macs == 8 * dense(784, 128, 10)
    assert [module.training for module in algorithm.modules()] == modes
    assert all(torch.equal(before[k], v) for k, v in algorithm.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_first_batch_that_fails_ends_the_counting(tmp_path, monkeypatch):
    def fail(self, batch):
        raise ArithmeticError

    monkeypatch.setattr(Backprop, "step", fail)
    with pytest.raises(ArithmeticError):
        train(settings("algo=bp", *SHORT), tmp_path, bar=False)
    assert _len_torch_dispatch_stack() == 0


def test_what_is_compiled_is_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("ffbp.lifecycle.train.require_compiler", lambda device: None)
    monkeypatch.setattr(
        nn.Module, "compile", lambda self, **options: setattr(self, "_compiled_call_impl", self._call_impl)
    )
    metrics = train(settings("algo=bp", *SHORT, "compile=true"), tmp_path, bar=False)
    assert not metrics.keys() & set(COSTS)
    assert metrics["time/epoch_seconds"] == pytest.approx(metrics["time/train_seconds"] / 2)


def test_metrics_of_an_earlier_version_are_read_and_costs_that_are_none_are_not(tmp_path):
    metrics = train(settings("algo=bp", *SHORT), tmp_path / "run", bar=False)
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({name: value for name, value in metrics.items() if name not in COSTS}))
    assert read_metrics(path) is not None
    for wrong in ("x", -1.0, float("inf")):
        path.write_text(json.dumps(metrics | {"memory/step_mib": wrong}))
        with pytest.raises(CheckpointError, match="memory/step_mib"):
            read_metrics(path)


# -- alignment


@pytest.mark.parametrize("rule", ["bp", "bp_explicit"])
def test_backpropagation_is_aligned_with_itself(rule, tmp_path):
    words = ["model.dropout=0.3", "data.shift=1", "algo.optimizer.weight_decay=0.1", "trainer.gradient_clip_val=0.01"]
    words += ["model.batch_norm=true"] if rule == "bp" else []
    train(settings(f"algo={rule}", *SHORT, *words, *EVERY_BATCH), tmp_path, bar=False)
    found = [float(row[f"alignment/layer_{k}"]) for row in rows_of(tmp_path) for k in (0, 1)]
    assert found == pytest.approx([1.0] * 4, abs=1e-6)


def test_alignment_equals_that_of_gradients_by_hand():
    algorithm = fresh("algo=feedback", "model=mlp", "model.widths=[12,8]").double()
    batch = a_batch(5)
    x, y = batch.images.double().flatten(1).numpy(), np.eye(10)[batch.labels.numpy()]
    (w1, b1, w2, b2, w3, b3) = (parameter.detach().numpy() for parameter in algorithm.parameters())
    h1 = np.maximum(x @ w1.T + b1, 0)
    h2 = np.maximum(h1 @ w2.T + b2, 0)
    z = h2 @ w3.T + b3
    e = np.exp(z) / np.exp(z).sum(1, keepdims=True) - y
    r1, r2 = np.split(algorithm.roads.numpy(), [12], axis=1)
    right2 = (e @ w3) * (h2 > 0)
    errors = [((e @ r1) * (h1 > 0), (right2 @ w2) * (h1 > 0), x), ((e @ r2) * (h2 > 0), right2, h1)]
    batch = batch._replace(images=batch.images.double())
    for parameter, gradient in algorithm.step(batch).gradients.items():
        parameter.grad = gradient
    found = alignment(algorithm, backprop_gradients(algorithm, batch))
    for k, (sent, right, below) in enumerate(errors):
        a, b = (np.append((delta.T @ below).ravel(), delta.sum(0)) for delta in (sent, right))
        assert float(found[f"alignment/layer_{k}"]) == pytest.approx(
            a @ b / np.linalg.norm(a) / np.linalg.norm(b), 1e-6
        )


def test_backpropagation_of_a_rule_that_detaches_its_layers_goes_through_them():
    """Class groups: the sum of the layers' goodness as logits, differentiated as if no layer were detached."""
    algorithm, batch = fresh("algo=class_groups", "model=mlp", "model.widths=[20,10]").double(), a_batch(6)
    batch = batch._replace(images=batch.images.double())
    algorithm.step(batch).loss.backward()
    first, second = algorithm.stack.blocks
    h1 = first(batch.images)
    logits = h1.view(6, 10, 2).square().mean(2) + second(h1).square()
    parameters = [*first.affine.parameters(), *second.affine.parameters()]
    expected = torch.autograd.grad(nn.functional.cross_entropy(logits, batch.labels), parameters)
    found = backprop_gradients(algorithm, batch)
    for parameter, gradient in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[parameter], gradient, rtol=1e-6, atol=1e-12)


def test_random_feedback_comes_into_line_and_sign_symmetry_is_from_the_start(tmp_path):
    words = ("model=mlp", "model.widths=[64,32]", "trainer.max_epochs=4", *EVERY_BATCH)
    found = {}
    for feedback in ("dfa", "sign"):
        train(settings("algo=feedback", f"algo.feedback={feedback}", *words), tmp_path / feedback, bar=False)
        found[feedback] = [float(row["alignment/layer_0"]) for row in rows_of(tmp_path / feedback)]
    assert abs(found["dfa"][0]) < 0.15
    assert found["dfa"][-1] > found["dfa"][0] + 0.1
    assert min(found["sign"]) > 0.7


@pytest.mark.parametrize("word", ["trainer.accumulate_grad_batches=2", "algo.optimizer=null"])
def test_alignment_is_refused_where_there_is_no_gradient_of_a_batch(word, tmp_path):
    with pytest.raises(ConfigError, match=r"callbacks=alignment: .*(adds up|no gradients)"):
        train(settings("algo=bp", *SHORT, *EVERY_BATCH, word), tmp_path / "run", bar=False)
    assert not (tmp_path / "run").exists()
