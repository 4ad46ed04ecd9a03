"""Each learning rule against its formulas, written out once more in NumPy or plain autograd, in double precision."""

import itertools

import numpy as np
import pytest
import torch
from conftest import a_batch, fresh
from torch.nn.functional import conv2d, cross_entropy, one_hot
from torch.nn.grad import conv2d_input

from ffbp.algorithms.local_loss import similarities
from ffbp.algorithms.output_loss import squared_error
from ffbp.data import Batches
from ffbp.data.sources import digits
from ffbp.errors import ConfigError
from ffbp.files import CONF

MLP = ("model=mlp", "model.widths=[12,11]")
CONV = ("model=conv", "model.channels=[11,12]", "model.kernel_sizes=[3,3]", "model.strides=[2,2]")


def ready(*words: str, size: int = 6):
    """A rule with random read-outs, in double precision, and a batch for it."""
    algorithm, batch = fresh(*words).double(), a_batch(size)
    for name, parameter in algorithm.named_parameters():
        if "head" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return algorithm, batch._replace(images=batch.images.double())


def gradients_of(algorithm, step) -> dict:
    """By parameter, whether the rule has a loss or writes gradients; zero where it has none."""
    parameters = list(algorithm.parameters())
    if step.gradients:
        return {p: step.gradients[p] for p in parameters}
    found = torch.autograd.grad(step.loss, parameters, allow_unused=True)
    return {p: torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)}


def assert_close(found: torch.Tensor, expected) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=1e-6, atol=1e-12)


def arrays(block) -> tuple[np.ndarray, np.ndarray]:
    return block.affine.weight.detach().numpy(), block.affine.bias.detach().numpy()


def softmax(z: np.ndarray) -> np.ndarray:
    exp = np.exp(z - z.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def forward(algorithm, x: np.ndarray) -> list[np.ndarray]:
    """The image, the activity of each relu layer, and the logits."""
    passed = [x]
    for block in algorithm.stack.blocks:
        w, b = arrays(block)
        passed.append(np.maximum(passed[-1] @ w.T + b, 0))
    w, b = arrays(algorithm.stack.head)
    return [*passed, passed[-1] @ w.T + b]


# -- random feedback


@pytest.mark.parametrize("feedback", ["fa", "sign", "dfa", "drtp"])
def test_random_feedback_equals_its_formulas(feedback):
    algorithm, batch = ready("algo=feedback", f"algo.feedback={feedback}", *MLP)
    x, y = batch.images.flatten(1).numpy(), np.eye(10)[batch.labels.numpy()]
    _, h1, h2, z = forward(algorithm, x)
    e = (softmax(z) - y) / len(x)
    blocks = [*algorithm.stack.blocks, algorithm.stack.head]
    if feedback in ("fa", "sign"):
        if feedback == "fa":
            r2, r3 = (algorithm.get_buffer(f"road_{k}").numpy() for k in range(2))
        else:
            r2, r3 = (np.sign(w) * np.abs(w).mean() for w, _ in map(arrays, blocks[1:]))
        d2 = (e @ r3) * (h2 > 0)
        d1 = (d2 @ r2) * (h1 > 0)
    else:
        sent, roads = (e if feedback == "dfa" else y / len(x)), algorithm.roads.numpy()
        d1, d2 = (sent @ roads[:, :12]) * (h1 > 0), (sent @ roads[:, 12:]) * (h2 > 0)
    found = gradients_of(algorithm, algorithm.step(batch))
    for block, delta, below in zip(blocks, (d1, d2, e), (x, h1, h2), strict=True):
        assert_close(found[block.affine.weight], delta.T @ below)
        assert_close(found[block.affine.bias], delta.sum(0))


def test_an_error_goes_back_through_a_convolution_by_its_fixed_kernel():
    algorithm, batch = ready("algo=feedback", "algo.feedback=fa", *CONV)
    first, second = (block.affine for block in algorithm.stack.blocks)
    z1 = conv2d(batch.images, first.weight, first.bias, stride=2, padding=1)
    z2 = conv2d(z1.relu(), second.weight, second.bias, stride=2, padding=1)
    head = algorithm.stack.head.affine
    logits = z2.relu().flatten(1) @ head.weight.T + head.bias
    e = (logits.softmax(1) - one_hot(batch.labels, 10)).detach() / len(batch.labels)
    d2 = (e @ algorithm.road_1).view_as(z2) * (z2 > 0)
    d1 = conv2d_input(z1.shape, algorithm.road_0, d2, stride=2, padding=1) * (z1 > 0)
    found = gradients_of(algorithm, algorithm.step(batch))
    assert_close(found[second.bias], d2.sum((0, 2, 3)))
    expected = torch.nn.grad.conv2d_weight(batch.images, first.weight.shape, d1, stride=2, padding=1)
    assert_close(found[first.weight], expected.detach())


def test_with_the_weights_themselves_as_the_road_feedback_alignment_is_backpropagation():
    algorithm, batch = ready("algo=feedback", "algo.feedback=fa", *CONV)
    for k, block in enumerate([algorithm.stack.blocks[1], algorithm.stack.head]):
        algorithm.get_buffer(f"road_{k}").copy_(block.affine.weight.detach())
    found = gradients_of(algorithm, algorithm.step(batch))
    loss = cross_entropy(algorithm.stack(batch.images), batch.labels)
    for p, g in zip(algorithm.parameters(), torch.autograd.grad(loss, list(algorithm.parameters())), strict=True):
        assert_close(found[p], g)


# -- local losses


def local_pred(activity: np.ndarray, below: np.ndarray, head, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """The gradients of a layer's weight and of its read-out's, by its cross-entropy."""
    w, b = arrays(head)
    e = (softmax(activity @ w.T + b) - y) / len(y)
    return ((e @ w) * (activity > 0)).T @ below, e.T @ activity


def test_a_local_prediction_loss_equals_its_formulas():
    algorithm, batch = ready("algo=local_loss", "algo.loss=pred", "algo.readout=sum", *MLP)
    x, y = batch.images.flatten(1).numpy(), np.eye(10)[batch.labels.numpy()]
    _, h1, h2, z = forward(algorithm, x)
    w, b = arrays(algorithm.heads[0])
    step = algorithm.step(batch)
    found = gradients_of(algorithm, step)
    assert_close(step.logits.detach(), z + h1 @ w.T + b)
    heads, (first, second) = [algorithm.heads[0], algorithm.stack.head], algorithm.stack.blocks
    for block, head, activity, below in zip((first, second), heads, (h1, h2), (x, h1), strict=True):
        layer, own = local_pred(activity, below, head, y)
        assert_close(found[block.affine.weight], layer)
        assert_close(found[head.affine.weight], own)


@pytest.mark.parametrize("maps", [False, True])
def test_similarities_equal_the_cosines_of_centred_rows(maps):
    x = torch.randn(5, 4, 3, 3, dtype=torch.double) if maps else torch.randn(5, 7, dtype=torch.double)
    rows = x.flatten(2).numpy().std(2, ddof=1) if maps else x.numpy()
    found = similarities(x)
    for i, j in itertools.product(range(5), repeat=2):
        a, b = rows[i] - rows[i].mean(), rows[j] - rows[j].mean()
        assert found[i, j].item() == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), rel=1e-6)


@pytest.mark.parametrize("model", [MLP, CONV], ids=["mlp", "conv"])
@pytest.mark.parametrize("loss", ["sim", "predsim"])
def test_each_layer_learns_from_the_losses_of_its_own_activity_alone(loss, model):
    algorithm, batch = ready("algo=local_loss", f"algo.loss={loss}", "algo.readout_inputs=50", *model)
    found = gradients_of(algorithm, algorithm.step(batch))
    wanted = similarities(one_hot(batch.labels, 10).double())
    below = batch.images
    for k, block in enumerate(algorithm.stack.blocks):
        activity = block(below)
        expected = (similarities(algorithm.projections[k](activity)) - wanted).square().mean()
        if loss == "predsim":
            head = algorithm.stack.head if k else algorithm.heads[0]
            seen = torch.nn.functional.adaptive_avg_pool2d(activity, 2) if model is CONV and k == 0 else activity
            expected = 0.99 * expected + 0.01 * cross_entropy(head(seen), batch.labels)
        for parameter, gradient in zip(
            block.parameters(), torch.autograd.grad(expected, block.parameters()), strict=True
        ):
            assert_close(found[parameter], gradient)
        below = activity.detach()


def test_uncut_local_losses_are_deep_supervision():
    algorithm, batch = ready("algo=local_loss", "algo.loss=pred", "algo.cut=false", *MLP)
    found = gradients_of(algorithm, algorithm.step(batch))
    h1 = algorithm.stack.blocks[0](batch.images)
    logits = [algorithm.heads[0](h1), algorithm.stack.head(algorithm.stack.blocks[1](h1))]
    loss = sum(cross_entropy(each, batch.labels) for each in logits)
    for p, g in zip(algorithm.parameters(), torch.autograd.grad(loss, list(algorithm.parameters())), strict=True):
        assert_close(found[p], g)


def test_a_sum_of_read_outs_that_do_not_exist_is_refused():
    with pytest.raises(ConfigError, match="readout"):
        fresh("algo=local_loss", "algo.loss=sim", "algo.readout=sum", *MLP)


# -- PEPITA


def test_pepita_equals_its_formulas():
    algorithm, batch = ready("algo=pepita", *MLP)
    x, y = batch.images.flatten(1).numpy(), np.eye(10)[batch.labels.numpy()]
    first = forward(algorithm, x)
    e = softmax(first[-1]) - y
    second = forward(algorithm, x + e @ algorithm.feedback.numpy())
    found = gradients_of(algorithm, algorithm.step(batch))
    blocks = [*algorithm.stack.blocks, algorithm.stack.head]
    deltas = [first[1] - second[1], first[2] - second[2], e]
    for block, delta, below in zip(blocks, deltas, second, strict=False):
        assert_close(found[block.affine.weight], delta.T @ below / len(x))
        assert_close(found[block.affine.bias], delta.mean(0))


def test_pepita_refuses_pooling_and_says_why():
    with pytest.raises(ConfigError, match="pooling"):
        fresh("algo=pepita", "model=cnn")


# -- class groups


def test_class_groups_equal_their_formulas():
    algorithm, batch = ready("algo=class_groups", *MLP)
    x, y = batch.images.flatten(1).numpy(), np.eye(10)[batch.labels.numpy()]
    w, b = arrays(algorithm.stack.blocks[0])
    h1 = np.maximum(x @ w.T + b, 0)
    w, b = arrays(algorithm.stack.blocks[1])
    h2 = np.maximum(h1 @ w.T + b, 0)
    step = algorithm.step(batch)
    found = gradients_of(algorithm, step)
    total = np.zeros((len(x), 10))
    for block, activity, below in zip(algorithm.stack.blocks, (h1, h2), (x, h1), strict=True):
        units = activity.shape[1]
        group = np.array([unit * 10 // units for unit in range(units)])
        g = np.stack([np.square(activity[:, group == k]).mean(1) for k in range(10)], 1)
        e = (softmax(g) - y) / len(x)
        sizes = np.bincount(group)
        delta = e[:, group] * 2 * activity / sizes[group]
        assert_close(found[block.affine.weight], delta.T @ below)
        total += g
    assert_close(step.logits.detach(), total)


def test_class_groups_need_a_unit_for_each_class():
    with pytest.raises(ConfigError, match="layer 1 has 8 units"):
        fresh("algo=class_groups", "model=mlp", "model.widths=[12,8]")


# -- backpropagation written out

LOCAL = ("model=local", "model.channels=[5,6]", "model.kernel_sizes=[7,3]", "model.strides=[3,2]")


@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize(
    "model",
    [
        *[(*MLP, "model.dropout=0.3", f"model.activation={f}") for f in ("relu", "tanh", "sigmoid")],
        (*CONV, "model.input_dropout=0.2"),
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
    measured = [dict(step.measures) for step in steps]
    assert measured[0].keys() == measured[1].keys() == ({"train/squared_error"} if loss == "squared_error" else set())


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
