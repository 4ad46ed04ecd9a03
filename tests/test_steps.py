"""What a training step computes, and what it must not compute again."""

import os
import subprocess
import sys

import pytest

# -- freed memory

FILL_TWICE = """
import ctypes, resource, sys
from ffbp.lifecycle.freed_memory import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def fill():
    place = libc.malloc(2**26)
    ctypes.memset(place, 1, 2**26)
    libc.free(place)
fill()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's malloc is told to keep memory")
@pytest.mark.parametrize("chosen", [{}, {"MALLOC_TRIM_THRESHOLD_": "131072"}], ids=["kept", "the user's choice"])
def test_memory_that_a_step_frees_is_not_fetched_from_the_system_again(chosen):
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", FILL_TWICE]
    faults = int(subprocess.run(command, env=usual | chosen, check=True, capture_output=True, text=True).stdout)
    assert faults < 100 if not chosen else faults > 1000  # 64 MiB are 16,384 pages
