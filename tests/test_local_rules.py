"""Rules in which each layer has a loss of its own, against their formulas in double precision."""

import itertools

import numpy as np
import pytest
import torch
from conftest import fresh, settings
from formulas import CONV, MLP, arrays, assert_close, forward, gradients_of, ready, softmax
from torch.nn.functional import cross_entropy, one_hot

from ffbp.algorithms.local_loss import similarities
from ffbp.build import build_algorithm
from ffbp.errors import ConfigError

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


def test_without_a_limit_maps_that_are_not_square_are_read_as_they_are():
    chosen = settings("algo=local_loss", "algo.loss=pred", "algo.readout_inputs=null", *CONV)
    rule = build_algorithm(chosen["algo"], chosen["model"], (1, 28, 14), 10)
    images = torch.rand(3, 1, 28, 14)
    below, *_ = rule.stack.activities(images)
    assert below.shape[2] != below.shape[3]
    with torch.no_grad():
        for parameter in rule.heads[0].parameters():
            parameter.normal_()
        expected = rule.heads[0](below.detach().clone())
        assert torch.equal(rule.layer_logits(list(rule.stack.activities(images)))[0], expected)
        assert sum(p.numel() for p in rule.heads[0].parameters()) == 10 * below[0].numel() + 10


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
