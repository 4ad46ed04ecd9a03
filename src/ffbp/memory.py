"""Whether something large fits into memory, said before it is made."""

import os
from pathlib import Path

import torch

from ffbp.errors import ResourceError


def require_memory(needed: int, arithmetic: str, device: torch.device) -> None:
    """Raise a ResourceError, which says the arithmetic, if a number of bytes is not free on a device."""
    free = free_memory(device)
    if needed > free:
        raise ResourceError(f"{arithmetic} = {needed / 2**30:.2f} GiB, and {free / 2**30:.2f} GiB of memory are free.")


def free_memory(device: torch.device) -> int:
    """How many bytes can be had on a device; all that the machine has, where it does not say what is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 2**10
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
