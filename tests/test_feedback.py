"""Random feedback and PEPITA against their formulas, written out once more in double precision."""

import numpy as np
import pytest
import torch
from conftest import fresh
from formulas import CONV, MLP, arrays, assert_close, forward, gradients_of, ready, softmax
from torch.nn.functional import conv2d, cross_entropy, one_hot
from torch.nn.grad import conv2d_input

from ffbp.errors import ConfigError

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
