"""SoftHebb: units compete, and each learns to resemble the inputs that it wins; only the head sees labels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.step import Step
from ffbp.data import Batch
from ffbp.models import Stack
from ffbp.models.local_layer import LocalConv2d
from ffbp.settings import Positive, checked


class SoftHebb(Algorithm):
    """Train each layer without error and without labels, and a linear read-out of the last one by its cross-entropy.

    With u = W x, y = softmax(u / temperature) over the units, or over the channels at each position, and y negated for
    all but the largest, the change of a unit's weights is y (x - u w), so the gradient is its negative. Biases of the
    layers stay as they were drawn.

    Args:
        stack: what is trained.
        temperature: the lower, the fewer units win.
        settings: `optimizer` and `schedule`, see `Algorithm`.

    Source: Journé et al. 2023, arXiv:2209.11883, equations 1 and 2.
    """

    @checked
    def __init__(self, stack: Stack, *, temperature: Positive, **settings: Any) -> None:
        super().__init__(stack, **settings)
        self.temperature = temperature

    def step(self, batch: Batch) -> Step:
        gradients: dict[nn.Parameter, Tensor] = {}
        activity = batch.images
        with torch.no_grad():
            for block in self.stack.blocks:
                below = block.dropout(activity)
                product = block.product(below)
                weight, bias = block.affine.weight, block.affine.bias
                u = product - (
                    bias.view(*product.shape[2:], -1).movedim(-1, 0) if bias.dim() == 3 else _by_unit(bias, product)
                )
                y = self.winners(u)
                shrink = (y * u).sum(0)  # (units,) or (C, H, W)
                if isinstance(block.affine, LocalConv2d):
                    shrink = shrink.flatten(1).T.unsqueeze(1)  # (positions, 1, units), as its weights lie
                else:
                    shrink = (
                        shrink.flatten(1).sum(1).view(-1, *[1] * (weight.dim() - 1))
                        if u.dim() == 4
                        else shrink.view(-1, 1)
                    )
                gradients[weight] = (shrink * weight - block.pull(below, y)[weight]) / len(u)
                gradients[bias] = torch.zeros_like(bias)
                activity = block.after(product)
        logits = self.stack.head(activity)
        read_out = list(self.stack.head.parameters())
        found = torch.autograd.grad(cross_entropy(logits, batch.labels), read_out)
        return Step(logits, gradients=gradients | dict(zip(read_out, found, strict=True)))

    def winners(self, u: Tensor) -> Tensor:
        """y of the rule, in the shape of `u` (B, units) or (B, C, H, W); units compete along the second dimension."""
        y = (u / self.temperature).softmax(1)
        won = torch.zeros_like(y).scatter_(1, u.argmax(1, keepdim=True), 1.0)
        return y * (2 * won - 1)


def _by_unit(bias: Tensor, product: Tensor) -> Tensor:
    return bias.view(-1, *[1] * (product.dim() - 2))
