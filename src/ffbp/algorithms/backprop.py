"""Backpropagation: one loss at the top, its gradient through all layers."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from ffbp.algorithms.base import Algorithm
from ffbp.data import Batch


class Backprop(Algorithm):
    """Train the whole stack on the cross-entropy of its logits.

    Source: Rumelhart, Hinton and Williams 1986, "Learning representations by back-propagating errors".
    """

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.stack(batch.images)  # (B, classes)
        loss = cross_entropy(logits, batch.labels)
        self.record(logits, batch.labels, loss)
        return loss * batch.share
