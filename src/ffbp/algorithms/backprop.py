"""Backpropagation: one loss at the top, its gradient through all layers."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from ffbp.algorithms.base import Algorithm
from ffbp.data import Batch
from ffbp.models import Stack
from ffbp.settings import OptimizerSettings, Schedule, checked


class Backprop(Algorithm):
    """Train the whole stack on the cross-entropy of its logits.

    Args:
        stack: what is trained.
        optimizer: how its parameters move.
        schedule: how the learning rate changes over the training.

    Source: Rumelhart, Hinton and Williams 1986.
    """

    @checked
    def __init__(self, stack: Stack, *, optimizer: OptimizerSettings, schedule: Schedule) -> None:
        super().__init__(stack, optimizer=optimizer, schedule=schedule)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.stack(batch.images)  # (B, classes)
        loss = cross_entropy(logits, batch.labels)
        self.record(logits, batch.labels, loss)
        return loss * batch.share
