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
    sums: Tensor
    one: Tensor

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        # the last is the number of images; doubles, since a sum over 60,000 of them would lose digits otherwise
        sums = torch.zeros(len(names) + 1, dtype=torch.double)
        self.add_state("sums", sums, dist_reduce_fx="sum", persistent=True)
        self.register_buffer("one", torch.ones(()), persistent=False)

    def update(self, values: Sequence[Tensor], count: int) -> None:
        """Add a batch: the mean of each quantity over its images, scalars, and how many images it has."""
        self.sums.add_(torch.stack([*(value.detach().float() for value in values), self.one]), alpha=count)

    def compute(self) -> Tensor:
        return self.sums[:-1] / self.sums[-1]  # (names,)

    def by_name(self) -> dict[str, Tensor]:
        """The means, scalars in single precision; none where no image was seen."""
        if not self.sums[-1]:
            return {}
        means = self.compute().float().reshape(-1)  # (names,), of which torchmetrics squeezes a single one
        return dict(zip(self.names, means, strict=True))

    def broken(self) -> list[str]:
        """The names of quantities whose sum is infinite or not a number."""
        finite = self.sums.isfinite()
        if finite.all():
            return []
        return [name for name, good in zip(self.names, finite.tolist(), strict=False) if not good]
