"""PEPITA: the error is written into the input of a second forward pass; there is no backward pass."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.step import Step
from ffbp.data import Batch
from ffbp.errors import ConfigError
from ffbp.models import Stack
from ffbp.settings import Positive, checked


class Pepita(Algorithm):
    """Train each layer on how its activity changes when the error is added to the image.

    A first pass gives the activities h_l and the error e = softmax(logits) - y, a second one on x + F e, with F fixed
    and random, the activities h'_l; both drop the same units. dW_l = (h_l - h'_l) h'_{l-1}^T, and e h'_{L-1}^T for the
    head, means over the batch; biases likewise, without the input. Batch norm's own weights stay as they are.

    Args:
        stack: what is trained.
        feedback_scale: of F, whose entries are uniform within it times sqrt(6 / pixels).
        settings: `optimizer` and `schedule`, see `Algorithm`.

    Raises:
        ConfigError: if a layer pools, so that its activity has not the shape of its product.

    Source: Dellaferrera and Kreiman 2022, arXiv:2201.11665, algorithm 1.
    """

    feedback: Tensor
    calls_whole_layers = False
    against_16_bits = "learns from the small difference of two passes"

    @checked
    def __init__(self, stack: Stack, *, feedback_scale: Positive, **settings: Any) -> None:
        super().__init__(stack, **settings)
        if any(isinstance(module, nn.MaxPool2d) for module in stack.modules()):
            raise ConfigError("algo=pepita: not with pooling, which hides the change of most units; use model=conv.")
        pixels = math.prod(stack.image_shape)
        bound = feedback_scale * math.sqrt(6 / pixels)
        self.register_buffer("feedback", torch.empty(stack.classes, pixels).uniform_(-bound, bound))

    @torch.no_grad()
    def step(self, batch: Batch) -> Step:
        first = self._pass(batch.images)
        logits = first[-1][1]
        error = logits.softmax(1) - one_hot(batch.labels, self.stack.classes)  # (B, classes)
        changed = batch.images + (error @ self.feedback).view_as(batch.images).to(batch.images.dtype)
        with self.second_pass(batch):
            second = self._pass(changed)
        gradients: dict[nn.Parameter, Tensor] = {}
        blocks = [*self.stack.blocks, self.stack.head]
        for block, (_, activity), (below, moved) in zip(blocks, first, second, strict=True):
            delta = error.to(moved.dtype) if block is self.stack.head else activity - moved
            gradients |= block.pull(below, delta / len(error))
        return Step(logits, gradients=gradients)

    def _pass(self, images: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each block's input, after dropout, and its activity; the head's last."""
        passed = []
        activity = images
        for block in [*self.stack.blocks, self.stack.head]:
            below = block.dropout(activity)
            activity = block.after(block.product(below))
            passed.append((below, activity))
        return passed
