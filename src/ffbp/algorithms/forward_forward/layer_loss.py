"""The loss of one layer: the objective on the goodness of its positives and negatives."""

from functools import partial
from math import prod
from typing import Literal

from torch import Tensor, nn

from ffbp.algorithms.forward_forward.goodness import GOODNESS, Per
from ffbp.algorithms.forward_forward.objectives import linear, logistic, margin

MEASURES = ("loss", "goodness_pos", "goodness_neg", "separation")
"""What is measured of a layer: its loss, its mean goodness on both sides, and how often a positive beats a negative."""


class LayerLoss(nn.Module):
    """Compute a layer's loss from its activity on positives and negatives; there are no parameters.

    Args:
        shape: of the layer's activity for one image, (D,) or (C, H, W).
        objective: what the layer minimises, see `objectives`.
        alpha: steepness of the margin objective.
        goodness: of an activity, see `goodness`.
        per: judge the layer as a whole, or each position of its maps by itself.
        threshold: of the logistic and linear objectives, for each unit: sum_square multiplies it by their number.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        objective: Literal["logistic", "margin", "linear"],
        alpha: float,
        goodness: Literal["sum_square", "mean_square"],
        per: Per,
        threshold: float,
    ) -> None:
        super().__init__()
        self.goodness, self.per = GOODNESS[goodness], per
        # how many activities one goodness adds up: the threshold is per unit
        self.scale = (shape[0] if per == "position" else prod(shape)) if goodness == "sum_square" else 1
        self.objective = {
            "logistic": partial(logistic, threshold=threshold * self.scale),
            "margin": partial(margin, alpha=alpha),
            "linear": partial(linear, threshold=threshold * self.scale),
        }[objective]

    def forward(self, activity: Tensor, images: int) -> tuple[Tensor, ...]:
        """Compute `MEASURES`, scalars, the first of which is the loss.

        `activity` has shape ((1 + N) * images, ...): the positives and, after them, N negatives of each.
        """
        # (1 + N, images), or (1 + N, images * positions)
        goodness = self.goodness(activity, self.per).view(len(activity) // images, -1)
        positive, negative = goodness[:1], goodness[1:]
        separation = (positive > negative).float().mean()
        return self.objective(positive, negative), positive.mean(), negative.mean(), separation
