"""Means over an epoch, summed on the device."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed


class EpochMeans:
    """Means of named quantities over the images of an epoch.

    A batch costs one stack and one addition, and no synchronisation. Batches may bring different quantities. The state
    is part of a checkpoint, so that an epoch that is resumed half way has the means of all of it.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        # for each set of names that came together: their sums, shape (names,), and the number of images
        self.sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}

    def update(self, values: Mapping[str, Tensor], count: int) -> None:
        """Add a batch: the mean of each quantity over its images, scalars, and how many images it has."""
        names, batch = tuple(values), torch.stack([value.detach().float() for value in values.values()])
        # doubles, since a sum over 60,000 images would lose digits otherwise
        sums, images = self.sums.get(names) or (batch.new_zeros(len(names), dtype=torch.double), 0)
        self.sums[names] = (sums.add_(batch, alpha=count), images + count)

    def by_name(self) -> dict[str, Tensor]:
        """The means over all processes, scalars in single precision; none where no image was seen."""
        totals: dict[str, tuple[Tensor, int]] = {}
        for names, sums, images in self.state():
            for name, part in zip(names, sums, strict=True):
                total, count = totals.get(name, (torch.zeros(()), 0))
                totals[name] = (total + part, count + images)
        return {name: (total / count).float() for name, (total, count) in totals.items()}

    def broken(self) -> list[str]:
        """The names of quantities whose sum is NaN or infinite, in this process."""
        finite = {names: sums.isfinite() for names, (sums, _) in self.sums.items()}
        if all(bool(good.all()) for good in finite.values()):
            return []
        return [name for names, good in finite.items() for name, ok in zip(names, good.tolist(), strict=True) if not ok]

    def state(self) -> list[list[Any]]:
        """Names, sums and number of images of all processes, as plain data and tensors on the CPU."""
        mine = [[list(names), sums.cpu(), images] for names, (sums, images) in self.sums.items()]
        if not distributed.is_initialized():
            return mine
        gathered: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(gathered, mine)
        return [part for process in gathered for part in process]

    def load_state(self, state: list[list[Any]], device: torch.device) -> None:
        """Go on from what `state` gave."""
        self.reset()
        for names, sums, images in state:
            before, count = self.sums.get(tuple(names), (0.0, 0))
            self.sums[tuple(names)] = (sums.to(device) + before, count + images)
