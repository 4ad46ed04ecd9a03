"""The standard streams: output that nobody reads, or that no disk holds, must not end a training."""

import io
import os
import select
import sys
from typing import TextIO, cast


class Outlet(io.FileIO):
    """A standard stream that takes everything: what cannot be written is dropped, and the reason noted."""

    problem: OSError | None = None  # a reader that went away is none

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            while (written := cast(int | None, super().write(data))) is None:  # a pipe that does not wait is full
                select.select([], [self], [])
        except BrokenPipeError:
            return len(data)
        except OSError as error:
            self.problem = error
            return len(data)
        return written


def secure_streams() -> None:
    """Open closed standard streams, before any file of ours gets their numbers, and make output unable to fail."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
    if sys.stdout is sys.__stdout__:  # and not somebody's replacement
        sys.stdout = _outlet(1, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _outlet(2, sys.stderr)


def output_problem() -> OSError | None:
    """Why some of the standard output could not be written, None if all of it was, or nobody reads it."""
    sys.stdout.flush()
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.problem if isinstance(raw, Outlet) else None


def _outlet(number: int, stream: TextIO | None) -> TextIO:
    if stream is not None:
        stream.flush()
    buffer = io.BufferedWriter(cast(io.RawIOBase, Outlet(number, "w", closefd=False)))
    encoding = stream.encoding if stream is not None else "utf-8"
    return io.TextIOWrapper(buffer, encoding, "backslashreplace", line_buffering=number == 2 or os.isatty(number))
