"""Backpropagation written out: every formula of the backward pass, and no autograd."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.output_loss import OUTPUT_LOSS, LossName, output_error
from ffbp.algorithms.step import Step
from ffbp.data import Batch
from ffbp.errors import ConfigError
from ffbp.models import Block, Stack
from ffbp.settings import checked


class BackpropExplicit(Algorithm):
    """Train a stack end to end by the formulas of backpropagation.

    Forward: a_0 = x, z_l = W_l a_{l-1} + b_l, a_l = f(z_l). Output error: e_L = dJ/dz_L. Hidden error:
    e_l = (W_{l+1}^T e_{l+1}) * f'(z_l), where f' is written in terms of a_l. Gradients: dW_l = e_l a_{l-1}^T,
    db_l = e_l, means over the batch.

    Args:
        stack: what is trained.
        loss: of the logits, see `output_loss`.
        settings: `optimizer` and `schedule`, see `Algorithm`.

    Raises:
        ConfigError: if the stack has a layer whose derivative is not written out, such as batch norm.

    Source: Rumelhart, Hinton and Williams 1986, Nature 323.
    """

    calls_whole_layers = False

    @checked
    def __init__(self, stack: Stack, *, loss: LossName, **settings: Any) -> None:
        super().__init__(stack, **settings)
        self.loss = loss
        modules = [module for block in stack.blocks for module in block.after]
        if unknown := [type(module).__name__ for module in modules if not isinstance(module, nn.MaxPool2d | KNOWN)]:
            raise ConfigError(f"algo=bp_explicit: the derivative of {unknown[0]} is not written out; use algo=bp.")

    @torch.no_grad()
    def step(self, batch: Batch) -> Step:
        passed = list(self._forward(batch.images))
        logits = passed[-1].activity
        error = output_error(self.loss, logits, batch.labels)
        gradients: dict[nn.Parameter, Tensor] = {}
        for part in reversed(passed):
            for module, seen, made in reversed(part.after):
                error = backward(module, seen, made, error)
            gradients |= part.block.pull(part.below, error)
            if part is not passed[0]:
                error = part.block.send_back(error, part.below.shape) * part.mask
        measures = (
            {}
            if self.loss == "cross_entropy"
            else {"train/squared_error": OUTPUT_LOSS[self.loss](logits, batch.labels)}
        )
        return Step(logits, measures=measures, gradients=gradients)

    def _forward(self, images: Tensor) -> Iterator["Passed"]:
        activity = images
        for block in [*self.stack.blocks, self.stack.head]:
            mask = block.dropout(torch.ones_like(activity))  # 0, or 1 / (1 - p)
            below = activity * mask
            activity = block.product(below)
            after = []
            for module in block.after:
                seen, activity = activity, module(activity.clone())  # a copy, since some work in place
                after.append((module, seen, activity))
            yield Passed(block, mask, below, after, activity)


class Passed(NamedTuple):
    """What the forward pass has left at a block."""

    block: Block
    mask: Tensor  # of the dropout, in the shape of the input
    below: Tensor  # input of the product
    after: list[tuple[nn.Module, Tensor, Tensor]]  # each module, what it saw and what it made of that
    activity: Tensor


KNOWN = nn.ReLU | nn.Sigmoid | nn.Tanh


def backward(module: nn.Module, seen: Tensor, made: Tensor, error: Tensor) -> Tensor:
    """The error at what a module saw, given that at what it made."""
    if isinstance(module, nn.MaxPool2d):  # it goes to the largest of each window, and windows may overlap
        _, where = max_pool2d(seen, module.kernel_size, module.stride, module.padding, return_indices=True)
        spread = torch.zeros_like(seen.flatten(2))  # (B, C, positions)
        return spread.scatter_add_(2, where.flatten(2), error.view_as(made).flatten(2)).view_as(seen)
    error = error.view_as(made)
    if isinstance(module, nn.Sigmoid):
        return error * made * (1 - made)
    return error * (1 - made.square() if isinstance(module, nn.Tanh) else made > 0)
