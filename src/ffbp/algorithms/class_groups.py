"""Class groups: each layer's units are divided among the classes, and the group of the true class should be loudest."""

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.step import Step
from ffbp.data import Batch
from ffbp.errors import ConfigError
from ffbp.models import Stack
from ffbp.settings import checked


class ClassGroups(Algorithm):
    """Train each layer by itself on its own goodness for each class, without negative data and without a head.

    The units of a layer, or the channels of maps, are divided into as many groups as there are classes, as equal as
    can be. The goodness of class k is the mean square of its group's activity; a layer's loss is the cross-entropy of
    these, taken as logits. Each layer's input is detached.

    Args:
        stack: whose blocks are trained; its own head is not used.
        readout: the answer: the last layer's goodness of each class, or the sum over all layers.
        settings: `optimizer` and `schedule`, see `Algorithm`.

    Raises:
        ConfigError: if a layer has fewer units than there are classes.

    Source: Papachristodoulou et al. 2024, arXiv:2312.12668.
    """

    @checked
    def __init__(self, stack: Stack, *, readout: Literal["last", "sum"], **settings: Any) -> None:
        super().__init__(stack.without_head(), **settings)
        self.readout = readout
        for k, (units, *_) in enumerate(stack.activity_shapes()):
            if units < stack.classes:
                raise ConfigError(f"algo=class_groups: layer {k} has {units} units, {stack.classes} or more expected.")
            groups = one_hot(torch.arange(units) * stack.classes // units, stack.classes).float()  # (units, classes)
            self.register_buffer(f"share_{k}", groups / groups.sum(0), persistent=False)

    def goodness(self, images: Tensor) -> list[Tensor]:
        found = []
        for k, activity in enumerate(self.stack.activities(images, local=True)):
            squares = activity.flatten(2).square().mean(2) if activity.dim() == 4 else activity.square()  # (B, units)
            found.append(squares @ self.get_buffer(f"share_{k}").to(squares.dtype))
        return found

    def step(self, batch: Batch) -> Step:
        goodness = self.goodness(batch.images)
        losses = [cross_entropy(each, batch.labels) for each in goodness]
        measures = {f"class_groups/layer_{k}/loss": loss for k, loss in enumerate(losses)}
        return Step(self._read_out(goodness)[str(self.readout)], torch.stack(losses).sum(), measures)

    def readouts(self, images: Tensor) -> dict[str, Tensor]:
        return self._read_out(self.goodness(images))

    def _read_out(self, goodness: list[Tensor]) -> dict[str, Tensor]:
        return {"last": goodness[-1], "sum": torch.stack(goodness).sum(0)}
