"""Random features: the layers stay as they were drawn, and only the head learns."""

import torch
from torch.nn.functional import cross_entropy

from ffbp.algorithms import Algorithm, Step
from ffbp.data import Batch


class RandomFeatures(Algorithm):
    """Train the head on the activity of untrained layers: what any rule for the layers has to beat."""

    def step(self, batch: Batch) -> Step:
        with torch.no_grad():
            *_, features = self.stack.activities(batch.images)
        logits = self.stack.head(features)  # (B, classes)
        return Step(logits, cross_entropy(logits, batch.labels))
