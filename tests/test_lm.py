"""Levenberg-Marquardt against SciPy, NumPy and autograd, in double precision."""

import numpy as np
import pytest
import torch
from conftest import a_batch, fresh, settings
from same_run import assert_same_run
from scipy.optimize import least_squares
from test_resume import BreakAt, Broken
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ffbp import curvature, memory
from ffbp.algorithms.lm import LevenbergMarquardt, among_parameters, among_residuals
from ffbp.errors import ConfigError, ResourceError
from ffbp.lifecycle import train as run
from ffbp.models import conv, local, mlp

NONE = {"input_dropout": 0.0, "dropout": 0.0}
MAPS = {"channels": [4, 3], "kernel_sizes": [3, 3], "strides": [2, 1], **NONE}
MODELS = {
    "mlp": (mlp, {"widths": [5, 4], "activation": "tanh", "batch_norm": False, **NONE}),
    "conv": (conv, MAPS | {"pools": None}),
    "local": (local, MAPS | {"kernel_sizes": [2, 2]}),
}
LOSSES = ("squared_error", "cross_entropy")


def ready(name: str = "mlp", loss: str = "squared_error", images: int = 20, **chosen):
    """A rule on a small network, in double precision, and a batch for it."""
    torch.manual_seed(2)
    make, usual = MODELS[name]
    stack = make(image_shape=[1, 5, 5], classes=3, **usual | chosen)
    rule = LevenbergMarquardt(stack, loss=loss, damping=0.05, least_damping=1e-12, factor=4.0).double()
    pixels, labels = torch.rand(images, 1, 5, 5, dtype=torch.double), torch.arange(images) % 3
    return rule, a_batch(images)._replace(images=pixels, labels=labels)


def formula(rule, batch, damping: float) -> np.ndarray:
    """(G + damping I)^-1 g with the gradient g and the Gauss-Newton matrix G of the loss, a mean over the images."""
    jacobian = curvature.parameter_jacobian(rule.stack, batch.images).numpy()  # (B, classes, P)
    z, y = rule.stack(batch.images).detach().numpy(), np.eye(3)[batch.labels.numpy()]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    errors = z - y if rule.loss == "squared_error" else p - y
    gradient, matrix = np.zeros(jacobian.shape[2]), np.zeros([jacobian.shape[2]] * 2)
    for rows, error, q in zip(jacobian, errors, p, strict=True):
        middle = np.eye(3) if rule.loss == "squared_error" else np.diag(q) - np.outer(q, q)
        gradient += rows.T @ error / len(z)
        matrix += rows.T @ middle @ rows / len(z)
    return np.linalg.solve(matrix + damping * np.eye(len(matrix)), gradient)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_a_step_equals_its_formula_in_whichever_space_it_is_solved(name, loss):
    rule, batch = ready(name, loss)
    layers, _, residuals = rule._linearized(batch)
    expected = formula(rule, batch, 0.05)
    slopes = []
    for solve in (among_residuals, among_parameters):
        move, slope, solved = solve(layers, residuals, torch.tensor(0.05 * 20))
        assert bool(solved)
        assert list(move) == list(rule.parameters())
        assert np.allclose(parameters_to_vector(move.values()), expected, rtol=1e-6, atol=1e-10)
        slopes.append(slope.item())
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_damping_follows_the_gain_ratio(loss):
    """Against a second implementation: the loss, the quadratic model and the decision, with NumPy."""
    rule, batch = ready(loss=loss)
    damping, decisions = rule.damping.item(), set()

    def loss_at() -> float:
        z = rule.stack(batch.images)
        if loss == "cross_entropy":
            return cross_entropy(z, batch.labels).item()
        return np.square(z.detach().numpy() - np.eye(3)[batch.labels.numpy()]).sum(1).mean() / 2

    for k in range(30):
        if k == 4:
            damping = 1e-9  # far too little
            rule.damping.fill_(damping)
        start, before, move = parameters_to_vector(rule.parameters()).detach(), loss_at(), formula(rule, batch, damping)
        step = rule.step(batch)
        found = parameters_to_vector(rule.parameters()).detach()
        vector_to_parameters(start - torch.from_numpy(move), rule.parameters())
        after = loss_at()
        vector_to_parameters(start, rule.parameters())
        parts = torch.autograd.grad(rule._halved_loss(rule.stack(batch.images), batch.labels), list(rule.parameters()))
        slope = move @ parameters_to_vector(parts).numpy()
        gain = (before - after) / (0.5 * (slope + damping * move @ move))  # the model's decrease
        kept = after < before
        vector_to_parameters(found, rule.parameters())
        assert step.measures["lm/kept"].item() == kept
        if kept:
            assert np.allclose(found, start.numpy() - move, rtol=1e-6, atol=1e-9)
        else:
            assert torch.equal(found, start)  # taken back to the bit
        grows, falls = not kept or gain < 0.25, kept and gain > 0.75
        decisions.add((kept, grows, falls))
        damping *= 4 if grows else 0.25 if falls else 1
        assert rule.damping.item() == pytest.approx(damping, rel=1e-9)
    assert decisions >= {(True, False, True), (False, True, False)}


def test_it_comes_to_the_least_squares_of_scipy():
    rule, batch = ready(widths=[1], images=100)
    rule.stack.blocks[0].affine = nn.Linear(1, 1).double()  # one pixel, one hidden unit, eight parameters
    x = np.repeat(np.linspace(-1, 1, 10), 10)
    often = np.round(5 + 4 * np.tanh(2 * x))  # how many of the ten images of a pixel are of class 1
    labels = (np.arange(100) % 10 < often).astype(int)
    labels[::9] = 2
    targets, images = np.eye(3)[labels], torch.from_numpy(x).view(100, 1, 1, 1)
    batch = batch._replace(images=images, labels=torch.from_numpy(labels))

    def residuals(w: np.ndarray) -> np.ndarray:
        return (np.tanh(w[0] * x + w[1])[:, None] * w[2:5] + w[5:] - targets).ravel()

    start = parameters_to_vector(rule.parameters()).detach().numpy().copy()
    expected = least_squares(residuals, start, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15)
    for _ in range(40):
        rule.step(batch)
    found = parameters_to_vector(rule.parameters()).detach().numpy()
    assert np.square(residuals(found)).sum() / 2 == pytest.approx(expected.cost, rel=1e-9)
    assert np.square(residuals(start)).sum() / 2 > 1.5 * expected.cost
    assert np.allclose(found, expected.x, rtol=1e-6, atol=1e-6)


def test_single_precision_survives_what_cannot_be_solved():
    rule, batch = ready()
    rule.float()
    batch = batch._replace(images=batch.images.float().expand(-1, -1, -1, -1) * 1e18)
    before = {name: value.clone() for name, value in rule.state_dict().items()}
    for factor in (4.0, 16.0):
        rule.step(batch._replace(images=batch.images * torch.inf))
        assert rule.damping.item() == pytest.approx(0.05 * factor)
    assert all(torch.equal(before[name], value) for name, value in rule.state_dict().items() if name != "damping")
    rule.damping.fill_(1e-12)
    for _ in range(60):
        rule.step(batch)
    assert all(value.isfinite().all() for value in rule.state_dict().values())


def test_repeated_passes_drop_the_same_units(monkeypatch):
    rule, batch = ready(dropout=0.5, input_dropout=0.2)
    rule.damping.fill_(1e12)  # so much of it that nothing moves
    seen, plain = [], rule._halved_loss
    monkeypatch.setattr(rule, "_halved_loss", lambda logits, labels: (seen.append(logits), plain(logits, labels))[1])
    rule.seed_modules(batch)
    rule.step(batch)
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-6, atol=1e-9)
    assert not torch.allclose(rule.stack(batch.images), seen[0])


# -- as a run

WORDS = ("algo=lm", "model=mlp", "model.widths=[8]", "trainer.max_epochs=2", "trainer.limit_train_batches=5")


def test_a_run_broken_off_goes_on_with_its_damping_to_the_same_bits(tmp_path):
    chosen = settings(*WORDS, "data.shift=1", "model.input_dropout=0.1", "checkpoint.every_n_steps=2")
    run.train(chosen, tmp_path / "whole", bar=False)
    breaking = {"break": {"_target_": f"{BreakAt.__module__}.BreakAt", "moment": "batch", "number": 8}}
    with pytest.raises(Broken):
        run.train(chosen | {"callbacks": chosen["callbacks"] | breaking}, tmp_path / "broken", bar=False)
    run.train(chosen, tmp_path / "broken", resume=True, bar=False)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("model.batch_norm=true", "batch norm in particular makes each answer depend on the whole batch"),
        ("trainer.precision=bf16-mixed", "solves a system of equations; use 32-true or 64-true"),
        ("trainer.accumulate_grad_batches=2", "accumulate_grad_batches cannot be set with this rule"),
        ("trainer.gradient_clip_val=1", "gradient_clip_val and"),
        ("algo.factor=1", "algo.factor=1: a number above 1"),
        ("algo.damping=0", "algo.damping=0: a number above 0"),
    ],
)
def test_what_it_cannot_do_is_refused_with_the_reason_before_anything_is_written(word, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        run.train(settings(*WORDS, word), tmp_path / "run", bar=False)
    assert not (tmp_path / "run").exists()


def test_what_does_not_fit_into_memory_is_refused_with_the_arithmetic(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 2**20)
    says = r"50 images x 10 classes = 500 residuals, and 6,370 parameters.*four matrices of 500 x 500.*= 0.01 GiB"
    with pytest.raises(ResourceError, match=says):
        run.train(settings(*WORDS), tmp_path / "run", bar=False)
    assert not (tmp_path / "run").exists()


def test_it_learns_the_digits_in_a_few_steps(tmp_path):
    metrics = run.train(settings("algo=lm", "trainer.max_epochs=1"), tmp_path, bar=False)
    assert metrics["test/acc"] > 0.9
    assert fresh("algo=lm").damping.item() == 1.0
