"""Backpropagation: one loss at the top, gradients through every layer."""

from typing import Any

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.output_loss import OUTPUT_LOSS, LossName
from ffbp.algorithms.step import Step
from ffbp.data import Batch
from ffbp.models import Stack
from ffbp.settings import checked


class Backprop(Algorithm):
    """Train a stack end to end; PyTorch differentiates. `BackpropExplicit` has the same gradients written out.

    Args:
        stack: what is trained.
        loss: of the logits, see `output_loss`; train/loss and val/loss are the cross-entropy in any case.
        settings: `optimizer` and `schedule`, see `Algorithm`.

    Source: Rumelhart, Hinton and Williams 1986, Nature 323.
    """

    @checked
    def __init__(self, stack: Stack, *, loss: LossName, **settings: Any) -> None:
        super().__init__(stack, **settings)
        self.loss = loss

    def step(self, batch: Batch) -> Step:
        logits = self.stack(batch.images)
        loss = OUTPUT_LOSS[self.loss](logits, batch.labels)
        return Step(logits, loss, {} if self.loss == "cross_entropy" else {f"train/{self.loss}": loss})
