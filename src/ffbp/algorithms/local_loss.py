"""Local losses: each layer learns from a read-out of its own, and no error leaves a layer."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy, mse_loss, one_hot

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.step import Step
from ffbp.data import Batch, MemoryData
from ffbp.errors import ConfigError
from ffbp.models import Stack
from ffbp.settings import Count, Probability, checked


class LocalLoss(Algorithm):
    """Train each layer on a loss of its own activity h_l, whose gradient reaches this layer and its read-out alone.

    pred is the cross-entropy of a linear read-out D_l h_l. sim asks that images of one class have similar activities
    and others not: the mean squared difference between S(f_l h_l) and S(y), where f_l is linear, a 3x3 convolution on
    maps, y are the labels one-hot, and S has the cosine similarity of each pair of rows, see `similarities`. predsim is
    a weighted sum of both. The last layer's read-out is the stack's head, which starts as PyTorch draws it; the others
    start at 0.

    Args:
        stack: what is trained.
        loss: of each layer. With sim, only the head's read-out is trained, and its error changes no layer.
        similarity_weight: of sim within predsim; pred has the rest.
        readout: the answer: the last layer's read-out, or the sum of all layers' logits.
        readout_inputs: maps are averaged over regions, as few as needed, so that D_l has at most so many inputs; null
            for no limit.
        cut: detach each layer's input; false is deep supervision, the control that shows what the cut costs.
        settings: `optimizer` and `schedule`, see `Algorithm`.

    Raises:
        ConfigError: if layers without a read-out are to be summed.

    Source: Nøkland and Eidnes 2019, arXiv:1901.06656; pred with readout_inputs=null is Mono-Forward, arXiv:2501.09238.
    """

    @checked
    def __init__(
        self,
        stack: Stack,
        *,
        loss: Literal["pred", "sim", "predsim"],
        similarity_weight: Probability,
        readout: Literal["last", "sum"],
        readout_inputs: Count | None,
        cut: bool,
        **settings: Any,
    ) -> None:
        super().__init__(stack, **settings)
        if loss == "sim" and readout == "sum":
            raise ConfigError("algo.readout=sum: with algo.loss=sim only the last layer has a read-out; use last.")
        self.weights = {"pred": (1.0, 0.0), "sim": (0.0, 1.0), "predsim": (1 - similarity_weight, similarity_weight)}[
            loss
        ]
        self.local, self.readout = cut, readout
        shapes = stack.activity_shapes()
        self.pools = [pooled_side(shape, readout_inputs) for shape in shapes[:-1]]  # the last one has the head
        self.heads, self.projections = nn.ModuleList(), nn.ModuleList()
        if self.weights[0]:
            pairs = zip(shapes, self.pools, strict=False)
            inputs = [math.prod(shape) if side is None else shape[0] * side**2 for shape, side in pairs]
            self.heads.extend(stack.make_head(features) for features in inputs)
        for parameter in self.heads.parameters():
            nn.init.zeros_(parameter)
        if self.weights[1]:
            self.projections.extend(_projection(shape) for shape in shapes)

    def step(self, batch: Batch) -> Step:
        activities = list(self.stack.activities(batch.images, local=self.local))
        logits = self.layer_logits(activities if self.weights[0] else [activities[-1].detach()])
        losses = [cross_entropy(each, batch.labels) for each in logits]
        total = torch.stack(losses).sum() * (self.weights[0] or 1)
        measures = {f"local/layer_{len(activities) - len(losses) + k}/pred": loss for k, loss in enumerate(losses)}
        if self.weights[1]:
            wanted = similarities(one_hot(batch.labels, self.stack.classes).to(total.dtype))  # (B, B)
            for k, (activity, projection) in enumerate(zip(activities, self.projections, strict=True)):
                loss = mse_loss(similarities(projection(activity)), wanted)
                total = total + self.weights[1] * loss
                measures[f"local/layer_{k}/sim"] = loss
        answer = logits[-1] if self.readout == "last" else torch.stack(logits).sum(0)
        return Step(answer, total, measures)

    def layer_logits(self, activities: list[Tensor]) -> list[Tensor]:
        """The logits (B, classes) of the layers that have a read-out, the last one's last."""
        pairs = zip(activities[:-1], self.heads, self.pools, strict=False)
        below = [head(h if side is None else adaptive_avg_pool2d(h, side)) for h, head, side in pairs]
        return [*below, self.stack.head(activities[-1])]

    def readouts(self, images: Tensor) -> dict[str, Tensor]:
        logits = self.layer_logits(list(self.stack.activities(images)))
        return {"last": logits[-1], "sum": torch.stack(logits).sum(0)}

    def check_trainer(self, trainer: pl.Trainer) -> None:
        super().check_trainer(trainer)
        if self.weights[1] and trainer.world_size > 1:
            raise ConfigError("algo.loss: sim compares all images of a batch, in one process; use trainer.devices=1.")

    def check_batches(self, trainer: pl.Trainer, data: MemoryData) -> None:
        super().check_batches(trainer, data)
        if self.weights[1] and data.batch_size == 1:
            raise ConfigError("data.batch_size=1: sim compares the images of a batch; take 2 or more.")


def similarities(x: Tensor) -> Tensor:
    """The cosine similarity of each pair of rows, each less its own mean: (B, B), in [-1, 1].

    `x` has rows (B, D); of maps (B, C, H, W), a row holds each channel's standard deviation over the positions.
    """
    if x.dim() == 4:
        x = x.flatten(2).std(2) if x[0, 0].numel() > 1 else x.flatten(1)
    rows = x - x.mean(1, keepdim=True)
    rows = rows / (rows.norm(dim=1, keepdim=True) + 1e-8)
    similar: Tensor = rows @ rows.T
    return similar


def _projection(shape: tuple[int, ...]) -> nn.Module:
    """What stands between a layer's activity and its similarities."""
    units = shape[0]
    return nn.Linear(units, units, bias=False) if len(shape) == 1 else nn.Conv2d(units, units, 3, padding=1, bias=False)


def pooled_side(shape: Sequence[int], most: int | None) -> int | None:
    """How many regions a side of a map is divided into, so that all channels together have at most `most` of them.

    None for activities that are read as they are: those of dense layers, and all if there is no limit.
    """
    if len(shape) == 1 or most is None:
        return None
    return max(1, min(*shape[1:], int((most / shape[0]) ** 0.5)))
