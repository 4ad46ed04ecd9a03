"""The in-memory loader: a batch is one indexing operation on the device that trains."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ffbp.data.draws import Draws, seeded_generator


class Batch(NamedTuple):
    """One batch as an algorithm sees it, or this process's share of it.

    A process without a share, of a batch with fewer images than processes, stands in with a copy of the first image,
    whose loss weighs nothing and which is counted nowhere: every rule sees at least one image.
    """

    images: Tensor  # (B, C, H, W), floats in [0, 1]
    labels: Tensor  # (B,), integers in [0, classes)
    draws: Draws  # this batch's source of random numbers
    loss_weight: float = 1.0  # of this share in the mean over all processes: 1 where all shares are of equal size

    @property
    def counted(self) -> int:
        """How many images this share adds to a mean over all processes: its own, but not a copy of another's."""
        return len(self.labels) if self.loss_weight else 0


class ShiftedImages:
    """Images stored as bytes, from which randomly shifted copies are cut with one row lookup per image.

    The images get a border of zeros and lie one after the other in one long store. To shift an image down by one
    pixel is to start reading one row of the store earlier. All possible windows are rows of one strided view.

    Args:
        images: shape (N, C, H, W), uint8.
        reach: how many pixels an image may be shifted in each direction.
    """

    def __init__(self, images: Tensor, reach: int) -> None:
        padded = pad(images, (reach,) * 4)  # (N, C, H + 2 * reach, W + 2 * reach)
        self.reach, self.height, self.width = reach, *images.shape[2:]
        self.padded_shape, self.size = padded.shape[1:], padded[0].numel()
        # zeros behind the last image, which its window reaches into when it is shifted furthest
        tail = padded.new_zeros(2 * reach * (padded.shape[3] + 1))
        store = torch.cat([padded.flatten(), tail])
        self.windows = store.as_strided((len(store) - self.size + 1, self.size), (1, 1))

    def take(self, index: Tensor, shift: Tensor | None = None) -> Tensor:
        """Cut images `index` (B,) out of the store: floats in [0, 1], shape (B, C, H, W).

        `shift` (B, 2) is how many pixels down and right, in [-reach, reach]; pixels from outside are 0.
        """
        return self.cut(self.starts(index), shift)

    def starts(self, index: Tensor) -> Tensor:
        """Where the unshifted images `index` (B,) start in the store."""
        return index * self.size + self.reach * (self.padded_shape[2] + 1)

    def cut(self, starts: Tensor, shift: Tensor | None) -> Tensor:
        """Cut out the images that start at `starts` (B,), see `take`."""
        if shift is not None:
            starts = starts - shift[:, 0] * self.padded_shape[2] - shift[:, 1]
        windows = self.windows[starts].view(-1, *self.padded_shape)
        return windows[..., : self.height, : self.width] / 255


class Batches:
    """All batches of one epoch, in an order that depends on (seed, epoch) alone; can be resumed at any batch.

    Args:
        images: shape (N, C, H, W), uint8, on the device that trains.
        labels: shape (N,), integers.
        batch_size: images in a batch, over all processes together.
        seed: determines the order and each batch's random numbers.
        shuffle: a new order each epoch, or else the given one.
        shift: random shifts of up to this many pixels in each direction.
        rank, world_size: which process this is, of how many; each takes its share of every batch.
    """

    batch_sampler = None  # Lightning expects this attribute of a loader that has a sampler

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
        self.images, self.labels = ShiftedImages(images, shift), labels
        self.batch_size, self.seed, self.shuffle, self.shift = batch_size, seed, shuffle, shift
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.position = (0, 0)  # epoch, and how many of its batches have been delivered

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    @property
    def sampler(self) -> "Batches":
        """The loader itself: Lightning calls `set_epoch` on a loader's sampler."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.position[0], "batches": self.position[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = (state["epoch"], state["batches"])

    def __iter__(self) -> Iterator[Batch]:
        epoch, device, (begun, delivered) = self.epoch, self.labels.device, self.position
        order = torch.arange(len(self.labels))
        if self.shuffle:
            order = torch.randperm(len(order), generator=seeded_generator(self.seed, epoch))
        order = order.to(device)
        starts, labels = self.images.starts(order), self.labels[order]  # looked up once, in this epoch's order
        # an interrupted epoch continues with its next batch; any other starts with its first
        first = delivered if begun == epoch and delivered < len(self) else 0
        for number in range(first, len(self)):
            begin, world = number * self.batch_size, self.world_size
            size = min(self.batch_size, len(order) - begin)  # of all processes together
            rows = slice(size * self.rank // world, size * (self.rank + 1) // world)  # of this process
            loss_weight = (rows.stop - rows.start) * world / size
            rows = rows if loss_weight else slice(0, 1)
            mine = slice(begin + rows.start, begin + rows.stop)
            draws = Draws((self.seed, epoch, number), size, rows, device)
            shift = draws.uniform(2).mul_(2 * self.shift + 1).long() - self.shift if self.shift else None  # (B, 2)
            self.position = (epoch, number + 1)  # before the yield, so that a checkpoint of this batch counts it
            yield Batch(self.images.cut(starts[mine], shift), labels[mine], draws, loss_weight)
