"""The in-memory loader: a batch is one indexing operation on the device that trains."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ffbp.data.draws import Draws, seeded_generator


class Batch(NamedTuple):
    """One batch as an algorithm sees it.

    Attributes:
        images: shape (B, C, H, W), floats in [0, 1].
        labels: shape (B,), integers in [0, classes).
        draws: this batch's source of random numbers.
        share: this process's part of the whole batch, times the number of processes: 1 but in a partial batch.
    """

    images: Tensor
    labels: Tensor
    draws: Draws
    share: float = 1.0


class ShiftedImages:
    """Images kept as bytes with a border of zeros, from which shifted ones are cut in one copy.

    The image that starts at byte s of the padded store, shifted by (dy, dx) pixels, is the window that starts at
    s + dy * width + dx: all windows are rows of one strided view, so that a batch of shifted images costs one row
    lookup an image.

    Args:
        images: shape (N, C, H, W), uint8.
        reach: how many pixels an image may be shifted in each direction.
    """

    def __init__(self, images: Tensor, reach: int) -> None:
        _, self.channels, self.height, self.width = images.shape
        self.reach = reach
        padded = pad(images, (reach,) * 4)  # (N, C, H + 2r, W + 2r)
        self.rows, self.columns = padded.shape[2:]
        self.size = padded[0].numel()
        # the window of the last image, shifted furthest, ends this much beyond it
        tail = padded.new_zeros(2 * reach * (self.columns + 1))
        store = torch.cat([padded.flatten(), tail])
        self.windows = store.as_strided((len(store) - self.size + 1, self.size), (1, 1))

    def take(self, index: Tensor, shift: Tensor | None = None) -> Tensor:
        """Cut images out of the store.

        Args:
            index: which images, shape (B,).
            shift: pixels down and right, shape (B, 2), integers in [-reach, reach]; None for none.

        Returns:
            floats in [0, 1], shape (B, C, H, W); pixels shifted in from outside are 0.
        """
        return self.cut(self.starts(index), shift)

    def starts(self, index: Tensor) -> Tensor:
        """Where the windows of unshifted images start, shape (B,), for images `index` (B,)."""
        return index * self.size + self.reach * (self.columns + 1)

    def cut(self, starts: Tensor, shift: Tensor | None = None) -> Tensor:
        """Cut out the windows that start at `starts` (B,), see `take`."""
        if shift is not None:
            starts = starts - shift[:, 0] * self.columns - shift[:, 1]
        windows = self.windows[starts]  # (B, size)
        images = windows.view(-1, self.channels, self.rows, self.columns)[..., : self.height, : self.width]
        return images / 255  # (B, C, H, W)


class Batches:
    """All batches of one epoch, in an order that (seed, epoch) decides; resumable at any batch.

    Args:
        images: shape (N, C, H, W), uint8, on the device that trains.
        labels: shape (N,), integers.
        batch_size: images in a batch, over all processes together.
        seed: what the order and each batch's draws derive from.
        shuffle: a new order each epoch, or the given one.
        shift: random shifts of up to this many pixels in each direction.
        rank, world_size: which process this is, of how many; each takes its share of every batch.
    """

    batch_sampler = None  # Lightning looks for one wherever there is a sampler

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = False,
        shift: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.images = ShiftedImages(images, shift)
        self.labels = labels
        self.batch_size, self.seed, self.shuffle, self.shift = batch_size, seed, shuffle, shift
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.position = (0, 0)  # (epoch, batches delivered in it)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    @property
    def sampler(self) -> "Batches":
        """Lightning tells a loader its epoch through its sampler: this loader is its own."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.position[0], "batches": self.position[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = (state["epoch"], state["batches"])

    def __iter__(self) -> Iterator[Batch]:
        epoch, device, count = self.epoch, self.labels.device, len(self.labels)
        # an epoch that was broken off goes on where it stood; any other begins at its start
        broken_off = self.position[0] == epoch and self.position[1] < len(self)
        first = self.position[1] if broken_off else 0
        if self.shuffle:
            order = torch.randperm(count, generator=seeded_generator(self.seed, epoch)).to(device)
        else:
            order = torch.arange(count, device=device)
        labels, starts = self.labels[order], self.images.starts(order)  # in this epoch's order, (N,)
        for number in range(first, len(self)):
            begin = number * self.batch_size
            total = min(self.batch_size, count - begin)
            rows = slice(total * self.rank // self.world_size, total * (self.rank + 1) // self.world_size)
            draws = Draws((self.seed, epoch, number), total, rows, device)
            mine = slice(begin + rows.start, begin + rows.stop)
            shift = None
            if self.shift:
                shift = draws.uniform(2).mul_(2 * self.shift + 1).long() - self.shift  # (B, 2)
            share = (rows.stop - rows.start) * self.world_size / total
            self.position = (epoch, number + 1)  # before the yield: nothing after the last one runs
            yield Batch(self.images.cut(starts[mine], shift), labels[mine], draws, share)
