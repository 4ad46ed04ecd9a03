"""SoftHebb: units compete, and each comes to resemble the inputs that it wins; only the read-out sees labels."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import cross_entropy, layer_norm

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.plan import Plan, parameter_groups
from ffbp.algorithms.step import Step, compile_each_size
from ffbp.data import Batch
from ffbp.errors import ConfigError
from ffbp.models import Block, Stack
from ffbp.models.batch_norm import BatchNorm, sum_over_processes
from ffbp.settings import HeadSettings, Positive, Probability, checked


class SoftHebb(Algorithm):
    """Train each layer without error and without labels, and a linear read-out of the last one by its cross-entropy.

    With u = W x, y = softmax(u / temperature) over the units, or over the channels at each position, negated for all
    but the largest. The change of a unit's weights w is the sum of y (x - u w) over images and positions, divided by
    the largest entry of its layer's change. So w turns to what its unit wins and away from what others win, and its
    length comes to 1. Longer weights make larger u: units that have won little are still long, and win next.

    A layer sees its input with mean 0 and variance 1 over each image, and its activity is f(u less its mean over the
    units). It has no biases. The read-out sees the last activity likewise, after batch norm: most of it is the same for
    all images.

    Args:
        stack: whose blocks are trained; its own head is not used.
        temperature: of the competition; the lower, the fewer units learn from an input.
        radius: the length of each unit's weights at the start.
        head: learning rate, weight decay and dropout of the read-out; a dropout of None is the model's.
        readout_share: the last part of the training, in which only the read-out learns; 0: it learns throughout.
        settings: `optimizer` and `schedule`, see `Algorithm`; `lr` may be a list, one for each layer.

    Raises:
        ConfigError: if a layer has a single unit, or the list is not as long as there are layers.

    Source: Journé et al. 2023, arXiv:2209.11883; with batch norm in place of each image's own mean and variance.
    """

    @checked
    def __init__(
        self,
        stack: Stack,
        *,
        temperature: Positive,
        radius: Positive,
        head: HeadSettings,
        readout_share: Probability,
        **settings: Any,
    ) -> None:
        super().__init__(stack.without_head(), **settings)
        self.temperature, self.head_settings = temperature, head
        self.plan = Plan(len(stack.blocks), "simultaneous", readout_share)
        shapes = stack.activity_shapes()
        self.head = stack.make_head(dropout=head.dropout)
        self.head_norm = BatchNorm(math.prod(shapes[-1]), eps=0.01)  # its inputs have a variance of 1 on average
        for k, (units, *_) in enumerate(shapes):
            if units < 2:
                raise ConfigError(f"algo=softhebb: layer {k} has 1 unit, 2 or more expected, which compete.")
        for affine in (block.affine for block in stack.blocks):
            zeros = torch.zeros_like(cast(Tensor, affine.bias).detach())
            del affine.bias
            affine.register_buffer("bias", zeros, persistent=False)
            with torch.no_grad():
                affine.weight.mul_(radius / lengths(affine.weight))

    @torch.no_grad()
    def step(self, batch: Batch) -> Step:
        layers_learn = self.plan.learns(0, self.elapsed)
        gradients: dict[nn.Parameter, Tensor] = {}
        measures: dict[str, Tensor] = {}
        activity = batch.images
        for k, block in enumerate(self.stack.blocks):
            weight = cast(nn.Parameter, block.affine.weight)
            with torch.set_grad_enabled(layers_learn):
                product = block.product(block.dropout(standardised(activity)))  # (B, units) or (B, C, H, W)
            if layers_learn:
                change = self.change(weight, product)
                if distributed.is_initialized():
                    change = sum_over_processes(change * bool(batch.counted))
                gradients[weight] = -change / change.abs().max().clamp_min(torch.finfo(change.dtype).tiny)
                measures[f"softhebb/layer_{k}/length"] = lengths(weight).mean()
            activity = activity_of(block, product.detach())
        with torch.enable_grad():
            logits = self.read_out(activity)  # (B, classes)
            if self.plan.learns(None, self.elapsed):
                parameters = self.head_parameters()
                found = torch.autograd.grad(cross_entropy(logits, batch.labels), parameters)
                gradients |= dict(zip(parameters, found, strict=True))
        return Step(logits, measures=measures, gradients=gradients)

    def change(self, weight: Tensor, product: Tensor) -> Tensor:
        """The sum of y (x - u w), in the shape of `weight`; `product` is u, with its graph."""
        y = winners(product.detach(), self.temperature)
        (towards,) = torch.autograd.grad(product, weight, y)  # the sum of y x
        return towards - (towards * weight).sum(inputs(weight), keepdim=True) * weight  # y x . w is y u

    def activities(self, images: Tensor) -> Iterator[Tensor]:
        activity = images
        for block in self.stack.blocks:
            activity = activity_of(block, block.product(block.dropout(standardised(activity))))
            yield activity

    def answer(self, images: Tensor) -> Tensor:
        *_, features = self.activities(images)
        return self.read_out(features)

    def read_out(self, features: Tensor) -> Tensor:
        """The logits (B, classes) for the last layer's activity."""
        logits: Tensor = self.head(self.head_norm(standardised(features).flatten(1)))
        return logits

    def head_parameters(self) -> list[nn.Parameter]:
        return [*self.head_norm.parameters(), *self.head.parameters()]

    def progress(self, group: Mapping[str, Any], elapsed: float) -> float:
        return self.plan.passed(group["layer"], elapsed)

    def parameter_groups(self) -> list[dict[str, Any]]:
        layers = [[cast(nn.Parameter, block.affine.weight)] for block in self.stack.blocks]
        return parameter_groups(self.optimizer_settings, self.head_settings, layers, self.head_parameters())

    def check_trainer(self, trainer: pl.Trainer) -> None:
        super().check_trainer(trainer)
        if trainer.precision.startswith("16"):
            raise ConfigError(
                f"trainer.precision={trainer.precision}: softhebb adds up over all images and positions, "
                "more than half precision can hold; use bf16-mixed or 32-true."
            )
        self.plan.check_trainer(trainer)

    def compile_parts(self) -> None:
        parts = [part for block in self.stack.blocks for part in (block.affine, block.after)]
        for module in [*parts, self.head_norm, self.head]:
            compile_each_size(module)


def standardised(x: Tensor) -> Tensor:
    """`x` (B, ...) with mean 0 and variance 1 over each image."""
    return layer_norm(x, x.shape[1:])


def winners(u: Tensor, temperature: float) -> Tensor:
    """y of the rule in the shape of `u`, (B, units) or (B, C, H, W); units compete along the second dimension."""
    y = (u / temperature).softmax(1).to(u.dtype)
    return torch.full_like(y, -1).scatter_(1, u.argmax(1, keepdim=True), 1.0) * y


def activity_of(block: Block, product: Tensor) -> Tensor:
    """The block's activity, with the mean over the units taken off its product."""
    activity: Tensor = block.after(product - product.mean(1, keepdim=True))
    return activity


def inputs(weight: Tensor) -> tuple[int, ...]:
    """The dimensions of a unit's inputs in (units, inputs), (units, C, h, w), or (positions, inputs, units)."""
    return (1,) if weight.dim() == 3 else tuple(range(1, weight.dim()))


def lengths(weight: Tensor) -> Tensor:
    """The length of each unit's weights, with dimensions of 1 for its inputs."""
    found: Tensor = torch.linalg.vector_norm(weight, dim=inputs(weight), keepdim=True)
    return found
