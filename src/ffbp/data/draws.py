"""Random numbers that come out the same after a resume and with any number of processes."""

from hashlib import blake2b

import torch
from torch import Tensor


def stream_seed(*key: int) -> int:
    """Derive a seed from `key`, such as (seed, epoch, batch): different keys give unrelated seeds."""
    return int.from_bytes(blake2b(repr(key).encode(), digest_size=8).digest(), "little")


def seeded_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a generator on `device` whose stream depends on `key` alone."""
    return torch.Generator(device).manual_seed(stream_seed(*key))


class Draws:
    """The random numbers of one batch.

    Every process draws them for the whole batch and keeps its own rows, so that the numbers do not depend on how
    many processes share the batch.

    Args:
        key: (seed, epoch, batch).
        total: images in the whole batch.
        rows: those of this process.
        device: where the numbers are needed.
    """

    def __init__(self, key: tuple[int, ...], total: int, rows: slice, device: torch.device) -> None:
        self.key, self.total, self.rows, self.device = key, total, rows, device
        self.generator: torch.Generator | None = None  # made at the first draw: many batches need none

    def uniform(self, *shape: int) -> Tensor:
        """Draw numbers in [0, 1), shape (B, *shape), where B is the number of this process's rows."""
        if self.generator is None:
            self.generator = seeded_generator(*self.key, device=self.device)
        shape, single = (self.total, *shape), torch.float  # whatever precision the training has
        return torch.rand(shape, generator=self.generator, device=self.device, dtype=single)[self.rows]
