"""Backpropagation: one loss at the top, gradients through every layer."""

from typing import Any

from torch import Tensor

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.measured import loss_and_accuracy
from ffbp.algorithms.output_loss import OUTPUT_LOSS, LossName
from ffbp.algorithms.step import Step, WholeStep, compile_each_size
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
        self.whole_step = WholeStep(self._step)

    def step(self, batch: Batch) -> Step:
        step: Step = self.whole_step(batch.images, batch.labels)
        return step

    def _step(self, images: Tensor, labels: Tensor) -> Step:
        logits = self.stack(images)
        loss = OUTPUT_LOSS[self.loss](logits, labels)
        measures = loss_and_accuracy("train", logits.detach().float(), labels)
        if self.loss != "cross_entropy":
            measures |= {f"train/{self.loss}": loss}
        return Step(logits, loss, measures)

    def compile_parts(self) -> None:
        compile_each_size(self.whole_step)
