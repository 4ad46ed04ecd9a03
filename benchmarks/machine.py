"""What a measurement was made on, and with which versions: what the benchmarks write into results/."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """The processor, its cores, whether it computes in bf16 itself (None: unknown), and the versions of what runs."""
    about = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = dict(line.replace("\t", "").split(": ", 1) for line in about.splitlines() if ": " in line)
    flags = found.get("flags", "").split()
    return {
        "cpu": found.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "bf16": bool({"avx512_bf16", "amx_bf16"} & {*flags}) if flags else None,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning", "hydra-core")},
    }
