"""Jacobians, Hessians and eigenvalues against finite differences, closed forms and NumPy, in double precision."""

import csv
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import settings
from same_run import assert_same_run
from test_resume import BreakAt, Broken
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import ffbp
from ffbp import curvature, memory
from ffbp.algorithms.output_loss import squared_error
from ffbp.callbacks import curvature as callback
from ffbp.errors import NumericError, ResourceError
from ffbp.lifecycle import train as run
from ffbp.lifecycle.record import RunRecord
from ffbp.models import conv, local, mlp

NONE = {"input_dropout": 0.0, "dropout": 0.3}  # dropout is off while a model is looked at
MAPS = {"channels": [2, 3], "kernel_sizes": [3, 3], "strides": [2, 1], **NONE}
MODELS = {
    "mlp": (mlp, {"widths": [5, 4], "activation": "tanh", "batch_norm": False, **NONE}),
    "batch norm": (mlp, {"widths": [5], "activation": "sigmoid", "batch_norm": True, **NONE}),
    "conv": (conv, MAPS | {"pools": None}),
    "local": (local, MAPS),
}
each_model = pytest.mark.parametrize("name", MODELS)


def ready(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small stack that is being trained, in double precision, with images and labels."""
    torch.manual_seed(1)
    make, chosen = MODELS[name]
    stack = make(image_shape=[1, 7, 7], classes=3, **chosen).double()
    stack(torch.rand(20, 1, 7, 7, dtype=torch.double))  # running statistics
    return stack, torch.rand(4, 1, 7, 7, dtype=torch.double), torch.tensor([0, 2, 1, 1])


@each_model
def test_jacobians_and_hessian_products_equal_finite_differences(name):
    stack, images, labels = ready(name)
    by_pixels, by_weights = curvature.input_jacobian(stack, images), curvature.parameter_jacobian(stack, images)
    product = curvature.hessian_product(stack, images, labels)
    assert all(module.training for module in stack.modules())
    before, step = parameters_to_vector(stack.parameters()).detach(), 1e-5
    move, direction = torch.randn_like(images), torch.randn_like(before)
    stack.eval()

    def at(distance: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits of moved images, then logits and gradient with moved weights."""
        pixels = stack(images + distance * move).detach()
        vector_to_parameters(before + distance * direction, stack.parameters())
        logits = stack(images)
        gradients = torch.autograd.grad(cross_entropy(logits, labels), list(stack.parameters()))
        vector_to_parameters(before, stack.parameters())
        return pixels, logits.detach(), parameters_to_vector(gradients)

    expected = [(plus - minus) / (2 * step) for plus, minus in zip(at(step), at(-step), strict=True)]
    found = torch.einsum("bcijk,bijk->bc", by_pixels, move), by_weights @ direction, product(direction)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_the_hessians_of_linear_logits_are_those_of_least_squares_and_of_logistic_regression():
    torch.manual_seed(0)
    model, images = nn.Linear(4, 3, dtype=torch.double), torch.rand(6, 4, dtype=torch.double)
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    x = np.concatenate([images.numpy(), np.ones((6, 1))], 1)
    p = model(images).softmax(1).detach().numpy()
    squares = np.kron(np.eye(3), 2 * x.T @ x / 6)
    logistic = sum(np.kron(np.diag(q) - np.outer(q, q), np.outer(row, row)) for q, row in zip(p, x, strict=True)) / 6
    order = [5 * c + k for c in range(3) for k in range(4)] + [5 * c + 4 for c in range(3)]  # the biases last
    for loss, expected in ((squared_error, squares), (cross_entropy, logistic)):
        found = curvature.hessian(model, images, labels, loss)
        assert np.allclose(found.numpy(), expected[np.ix_(order, order)], rtol=1e-6, atol=1e-12)


@each_model
def test_the_largest_eigenvalues_are_those_of_the_whole_hessian(name):
    stack, images, labels = ready(name)
    whole = curvature.hessian(stack, images, labels).numpy()
    expected = np.linalg.eigvalsh(whole)[::-1]
    found = curvature.largest_eigenvalues(stack, images, labels, count=3, tolerance=1e-10, vectors=True)
    assert found.steps < len(whole)
    assert np.allclose(found.values, expected[:3], rtol=1e-6)
    for value, vector in zip(found.values, found.vectors.numpy(), strict=True):
        assert np.linalg.norm(vector) == pytest.approx(1)
        assert np.allclose(whole @ vector, value.item() * vector, atol=1e-6 * expected[0])
    rough = curvature.largest_eigenvalues(stack, images, labels, tolerance=0.01)
    assert rough.steps < found.steps
    assert abs(rough.values[0] - expected[0]) <= rough.errors[0] <= 0.01 * expected[0]


def test_lanczos_goes_on_where_its_space_closes_and_says_how_far_it_came():
    matrix = torch.diag(torch.tensor([-9.0, 5.0, 5.0, 5.0, 1.0], dtype=torch.double))
    found = curvature.lanczos(matrix.mv, torch.ones(5, dtype=torch.double), count=5)
    assert found.values.tolist() == pytest.approx([5, 5, 5, 1, -9])
    nothing = curvature.lanczos(torch.zeros_like, torch.ones(4))
    assert (nothing.values.item(), nothing.steps) == (0, 1)
    hard = torch.diag(torch.linspace(0, 1, 400, dtype=torch.double))
    stopped = curvature.lanczos(hard.mv, torch.ones(400, dtype=torch.double), most_steps=8)
    assert stopped.steps == 8
    assert 1 - stopped.values.item() <= stopped.errors.item()
    with pytest.raises(ValueError, match="count=5: 1 to 4 expected"):
        curvature.lanczos(torch.zeros_like, torch.ones(4), count=5)
    with pytest.raises(NumericError, match="NaN"):
        curvature.lanczos(lambda vector: vector / 0, torch.ones(4))


def test_what_does_not_fit_into_memory_is_refused_with_the_arithmetic(monkeypatch):
    stack, images, labels = ready("mlp")
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    arithmetic = r"289 x 289 parameters x 8 bytes = 0.00 GiB, and 0.00 GiB of memory are free"
    with pytest.raises(ResourceError, match=arithmetic):
        curvature.hessian(stack, images, labels)
    with pytest.raises(ResourceError, match="12 logits x 289 parameters x 8 bytes"):
        curvature.parameter_jacobian(stack, images)
    with pytest.raises(ResourceError, match="100 vectors of 289 parameters"):
        curvature.largest_eigenvalues(stack, images, labels)


def test_curvature_comes_with_the_package_but_not_before_it_is_asked_for():
    code = "import sys, ffbp; assert 'curvature' in ffbp.__all__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert ffbp.curvature is curvature


# -- callbacks=curvature

SHORT = ("trainer.max_epochs=3", "trainer.limit_train_batches=5", "data.shift=1", "model.input_dropout=0.1")
MEASURED = ("callbacks=curvature", "callbacks.curvature.images=20")


def column(directory, name="curvature/sharpness") -> list[str]:
    with (directory / "metrics.csv").open() as file:
        return [row.get(name) for row in csv.DictReader(file)]


@pytest.mark.parametrize("words", [("algo=bp", "model=mlp", "model.batch_norm=true"), ("algo=ff", "model=mlp")])
def test_the_sharpness_of_each_epoch_is_logged_and_disturbs_no_bit(words, tmp_path):
    run.train(settings(*words, *SHORT), tmp_path / "plain", bar=False)
    run.train(settings(*words, *SHORT, *MEASURED), tmp_path / "measured", bar=False)
    plain, measured = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("plain", "measured")
    )
    assert all(torch.equal(value, measured["state_dict"][name]) for name, value in plain["state_dict"].items())
    assert column(tmp_path / "plain", "val/loss") == column(tmp_path / "measured", "val/loss")
    model = ffbp.load(tmp_path / "measured" / "checkpoints" / "last.ckpt")
    data = run.build("data", settings()["data"], seed=0).train
    images, labels = data.images[:20] / 255, data.labels[:20]
    values = [float(value) for value in column(tmp_path / "measured")]
    assert len(set(values)) == 3
    whole = curvature.largest_eigenvalues(model, images, labels, tolerance=1e-6)
    assert values[-1] == pytest.approx(whole.values.item(), rel=1e-3)


def test_the_sharpness_is_the_same_after_a_resume_and_its_time_is_no_training_time(tmp_path, monkeypatch):
    measure, paused = callback.largest_eigenvalues, []

    def measured(model, *others, **settings):
        [clock] = [each.clock for each in model.trainer.callbacks if isinstance(each, RunRecord)]
        paused.append(clock._started is None)
        return measure(model, *others, **settings)

    monkeypatch.setattr(callback, "largest_eigenvalues", measured)
    chosen = settings(
        "algo=bp", "model=mlp", "checkpoint.every_n_steps=2", "callbacks.curvature.every_n_epochs=2", *SHORT, *MEASURED
    )
    run.train(chosen, tmp_path / "whole", bar=False)
    breaking = {"break": {"_target_": f"{BreakAt.__module__}.BreakAt", "moment": "batch", "number": 13}}
    with pytest.raises(Broken):
        run.train(chosen | {"callbacks": chosen["callbacks"] | breaking}, tmp_path / "broken", bar=False)
    run.train(chosen, tmp_path / "broken", resume=True, bar=False)
    assert_same_run(tmp_path / "whole", tmp_path / "broken")
    assert [bool(value) for value in column(tmp_path / "whole")] == [False, True, True]
    assert paused
    assert all(paused)
