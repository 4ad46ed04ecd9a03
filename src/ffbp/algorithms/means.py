"""Means over an epoch, summed on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric


class EpochMeans(Metric):
    """Means of several quantities over the images of an epoch.

    One stack and one addition a batch, no synchronisation; the sums are part of a checkpoint, so that an epoch that
    is resumed half way has the mean of all of it.

    Args:
        names: of the quantities, in the order in which they are given to `update`.
    """

    full_state_update = False
    totals: Tensor
    count: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        # doubles, since a sum over 60,000 images in single precision would show in the sixth digit
        self.add_state("totals", torch.zeros(len(names), dtype=torch.double), dist_reduce_fx="sum", persistent=True)
        self.add_state("count", torch.zeros((), dtype=torch.double), dist_reduce_fx="sum", persistent=True)

    def update(self, values: Sequence[Tensor], count: int) -> None:
        """Add a batch: the mean of each quantity over its images, scalars, and how many images it has."""
        self.totals.add_(torch.stack([value.detach().float() for value in values]), alpha=count)
        self.count.add_(count)

    def compute(self) -> Tensor:
        return self.totals / self.count  # (names,)

    def by_name(self) -> dict[str, Tensor]:
        """The means, scalars in single precision."""
        return dict(zip(self.names, self.compute().float(), strict=True))

    def broken(self) -> list[str]:
        """The names of quantities whose sum is infinite or not a number."""
        finite = self.totals.isfinite()
        if finite.all():
            return []
        return [name for name, good in zip(self.names, finite.tolist(), strict=True) if not good]
