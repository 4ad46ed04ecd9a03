"""Other rules against their formulas, written out once more in NumPy or plain autograd, in double precision."""

import numpy as np
import pytest
import torch
from conftest import fresh
from formulas import CONV, MLP, arrays, assert_close, gradients_of, ready, softmax
from torch.nn.functional import cross_entropy

from ffbp.algorithms.output_loss import squared_error
from ffbp.data import Batches
from ffbp.data.sources import digits
from ffbp.errors import ConfigError
from ffbp.files import CONF

# -- backpropagation written out


LOCAL = ("model=local", "model.channels=[5,6]", "model.kernel_sizes=[7,3]", "model.strides=[3,2]")


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize(
    "model",
    [
        *[(*MLP, "model.dropout=0.3", f"model.activation={f}") for f in ("relu", "tanh", "sigmoid")],
        (*CONV, "model.input_dropout=0.2"),
        (*CONV[:-1], "model.strides=[1,1]", "model.pools=[4,2]"),  # whose first windows overlap
        (*LOCAL, "model.dropout=0.2"),
        ("model=cnn", "model.dropout=0.5"),
    ],
    ids=str,
)
def test_backpropagation_written_out_has_autograds_gradients(model, loss):
    explicit, batch = ready("algo=bp_explicit", f"algo.loss={loss}", *model)
    automatic, _ = ready("algo=bp", f"algo.loss={loss}", *model)
    automatic.load_state_dict(explicit.state_dict())
    steps = []
    for algorithm in (explicit, automatic):
        algorithm.seed_modules(batch)
        steps.append(algorithm.step(batch))
    found, expected = (gradients_of(*pair) for pair in zip((explicit, automatic), steps, strict=True))
    for a, b in zip(found.values(), expected.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)
    assert_close(steps[0].logits, steps[1].logits.detach())
    for step in steps:
        assert ("train/squared_error" in step.measures) == (loss == "squared_error")


def test_the_squared_error_is_the_mean_over_images_of_the_sum_over_classes():
    logits, labels = torch.tensor([[1.0, 0.0], [0.5, 2.0]]), torch.tensor([0, 0])
    assert squared_error(logits, labels).item() == pytest.approx((0 + 0 + 0.25 + 4) / 2)


def test_batch_norm_is_refused_where_its_derivative_is_not_written_out():
    with pytest.raises(ConfigError, match="BatchNorm is not written out"):
        fresh("algo=bp_explicit", "model=mlp", "model.batch_norm=true")


# -- forward gradients


@pytest.mark.parametrize("perturb", ["weights", "activities"])
def test_forward_gradients_are_right_on_average(perturb):
    algorithm, batch = ready(
        "algo=forward_gradient", f"algo.perturb={perturb}", "model=mlp", "model.widths=[3]", size=3
    )
    algorithm.stack.blocks[0].affine = torch.nn.Linear(49, 3).double()  # few weights, so that the mean settles
    images = batch.images[..., ::4, ::4]
    batch = batch._replace(images=images)
    parameters = list(algorithm.parameters())
    expected = torch.autograd.grad(cross_entropy(algorithm.stack(images), batch.labels), parameters)
    torch.manual_seed(0)
    total = [torch.zeros_like(p) for p in parameters]
    for _ in range(400):
        step = algorithm.step(batch)
        total = [t + step.gradients[p] for t, p in zip(total, parameters, strict=True)]
    found, wanted = torch.cat([t.flatten() for t in total]), torch.cat([g.flatten() for g in expected])
    slope = (found @ wanted / 400 / (wanted @ wanted)).item()  # 1 on average
    assert slope == pytest.approx(1, abs=0.25)
    assert torch.nn.functional.cosine_similarity(found, wanted, 0) > 0.6


def test_a_forward_gradient_is_the_slope_along_its_direction():
    algorithm, batch = ready("algo=forward_gradient", "algo.perturb=weights", *MLP)
    parameters = list(algorithm.parameters())
    torch.manual_seed(0)
    step = algorithm.step(batch)
    torch.manual_seed(0)
    directions = [torch.randn_like(p) for p in parameters]
    loss = cross_entropy(algorithm.stack(batch.images), batch.labels)
    gradients = torch.autograd.grad(loss, parameters)
    slope = sum((g * v).sum() for g, v in zip(gradients, directions, strict=True))
    for p, v in zip(parameters, directions, strict=True):
        assert_close(step.gradients[p], slope * v)


def test_each_image_has_a_slope_of_its_own_along_its_activities():
    algorithm, batch = ready("algo=forward_gradient", "algo.perturb=activities", *CONV)
    torch.manual_seed(0)
    found = algorithm.step(batch).gradients
    torch.manual_seed(0)
    blocks, inputs, products = [*algorithm.stack.blocks, algorithm.stack.head], [], []
    activity = batch.images
    for block in blocks:
        inputs.append(activity.detach())
        products.append(block.product(activity))
        activity = block.after(products[-1].clone())
    directions = [torch.randn_like(product) for product in products]
    errors = torch.autograd.grad(cross_entropy(activity, batch.labels, reduction="sum"), products)
    slopes = sum((e * v).flatten(1).sum(1) for e, v in zip(errors, directions, strict=True))  # (B,)
    for block, below, v in zip(blocks, inputs, directions, strict=True):
        delta = slopes.view(-1, *[1] * (v.dim() - 1)) * v / len(slopes)
        for p, g in zip(
            block.affine.parameters(),
            torch.autograd.grad(block.product(below), block.affine.parameters(), delta),
            strict=True,
        ):
            assert_close(found[p], g)


# -- predictive coding


@pytest.mark.parametrize("model", [(*MLP, "model.activation=tanh"), (*CONV,)], ids=["mlp", "conv"])
def test_predictive_coding_comes_to_backpropagation_where_the_label_pulls_weakly(model):
    words = ("algo.steps=200", "algo.rate=0.3", "algo.beta=1e-4")
    algorithm, batch = ready("algo=predictive_coding", *words, *model)
    parameters = list(algorithm.parameters())
    found = gradients_of(algorithm, algorithm.step(batch))
    expected = torch.autograd.grad(cross_entropy(algorithm.stack(batch.images), batch.labels), parameters)
    for p, g in zip(parameters, expected, strict=True):
        assert torch.nn.functional.cosine_similarity(found[p].flatten(), g.flatten(), 0) > 0.999
        assert found[p].norm().item() == pytest.approx(g.norm().item(), rel=0.01)


def test_small_steps_of_predictive_coding_have_the_directions_of_backpropagation():
    algorithm, batch = ready("algo=predictive_coding", "algo.rate=1e-3", *MLP, "model.activation=tanh")
    parameters = list(algorithm.parameters())
    found = gradients_of(algorithm, algorithm.step(batch))
    expected = torch.autograd.grad(cross_entropy(algorithm.stack(batch.images), batch.labels), parameters)
    for p, g in zip(parameters, expected, strict=True):
        assert torch.nn.functional.cosine_similarity(found[p].flatten(), g.flatten(), 0) > 0.999


def test_predictive_coding_needs_a_step_for_each_layer():
    with pytest.raises(ConfigError, match=r"algo\.steps=1: too few for the label to reach the first of 2 layers"):
        ready("algo=predictive_coding", "algo.steps=1", *MLP)


def test_the_energy_of_predictive_coding_by_hand():
    algorithm, batch = ready("algo=predictive_coding", "algo.beta=0.5", *MLP)
    x, labels = batch.images.flatten(1).numpy(), batch.labels.numpy()
    states = [torch.rand(6, 12, dtype=torch.double), torch.rand(6, 11, dtype=torch.double)]
    (w1, b1), (w2, b2), (w3, b3) = map(arrays, [*algorithm.stack.blocks, algorithm.stack.head])
    one, two = (state.numpy() for state in states)
    errors = one - np.maximum(x @ w1.T + b1, 0), two - np.maximum(one @ w2.T + b2, 0)
    surprise = -np.log(softmax(two @ w3.T + b3)[np.arange(6), labels]).sum()
    expected = sum(np.square(e).sum() for e in errors) / 2 + 0.5 * surprise
    assert algorithm.energy(batch, states).item() == pytest.approx(expected, rel=1e-6)


# -- several processes


OF_THEIR_OWN = {"ff", "lm", "softhebb"}  # tests in test_ddp.py and test_softhebb.py; lm is refused in several processes


@pytest.mark.parametrize("model", [MLP, CONV], ids=["mlp", "conv"])
@pytest.mark.parametrize("algo", sorted({path.stem for path in (CONF / "algo").glob("*.yaml")} - OF_THEIR_OWN))
def test_the_gradients_of_two_shares_of_a_batch_come_to_those_of_the_whole(algo, model):
    """What training in several processes relies on: they are exchanged as means that weigh a share by its images."""
    if algo == "forward_gradient":
        pytest.skip("each process guesses along directions of its own: the mean is still unbiased")
    words = ("algo.loss=pred",) if algo == "local_loss" else ()  # sim is refused in several processes
    algorithm, _ = ready(f"algo={algo}", *words, *model)
    train, _ = digits()
    found = []
    for rank, processes in ((0, 1), (0, 2), (1, 2)):
        [share] = Batches(train.images[:7], train.labels[:7], batch_size=7, rank=rank, world_size=processes)
        share = share._replace(images=share.images.double())
        algorithm.seed_modules(share)
        gradients = gradients_of(algorithm, algorithm.step(share))
        found.append({p: gradient * share.loss_weight / processes for p, gradient in gradients.items()})
    whole, first, second = found
    for parameter, gradient in whole.items():
        torch.testing.assert_close(first[parameter] + second[parameter], gradient, rtol=1e-5, atol=1e-9)
