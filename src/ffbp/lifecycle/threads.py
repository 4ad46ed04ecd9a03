"""How many threads a run computes with: one number for the whole run, since another may round sums differently."""

import os
from typing import TYPE_CHECKING

from ffbp.errors import ResourceError

if TYPE_CHECKING:
    from ffbp.models import Stack

MOST_THREADS = 1024
MACS_PER_THREAD = 40_000_000
"""Multiply-adds in a batch's forward pass that are worth one more thread, see docs/speed.md."""


def wait_briefly() -> None:
    """Let threads that wait for each other sleep soon, unless the environment says how they wait.

    The end of a parallel operation waits for its last thread. GNU's OpenMP, which PyTorch's wheels for Linux bring,
    lets the others spin for milliseconds meanwhile. Beside another busy process they then hold the very core that the
    last one needs. To be called before PyTorch is imported, when OpenMP reads the environment.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"  # turns of its loop, against 300,000


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(threads: int, cores: int) -> None:
    """Raise a ResourceError for more threads in a process than it has cores: they would only wait for each other."""
    if threads > cores:
        raise ResourceError(f"threads={threads}: 1 to {cores} expected, the cores that each process has here.")


def automatic_threads(stack: "Stack", batch_size: int, cores: int) -> int:
    """Choose OMP_NUM_THREADS if it is set, else one thread for each 40 million multiply-adds, and no more than cores.

    Args:
        stack: the network, whose blocks' products are counted in a forward pass of one image.
        batch_size: images that a process has in a batch.
        cores: that the process has.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # further numbers are for nested parallel parts
    if wanted.isdigit() and int(wanted):
        return min(int(wanted), MOST_THREADS)
    from ffbp.callbacks.costs import Meter  # here, since it brings PyTorch

    with Meter() as meter:
        stack.activity_shapes()
    return max(1, min(cores, round(meter.macs * batch_size / MACS_PER_THREAD)))
