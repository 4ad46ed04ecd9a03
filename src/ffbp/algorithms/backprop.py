"""Backpropagation: one loss at the top, its gradient through all layers."""

from torch.nn.functional import cross_entropy

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.step import Step
from ffbp.data import Batch


class Backprop(Algorithm):
    """Train the whole stack on the cross-entropy of its logits.

    Source: Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating errors".
    """

    def step(self, batch: Batch) -> Step:
        logits = self.stack(batch.images)  # (B, classes)
        return Step(logits, cross_entropy(logits, batch.labels))
