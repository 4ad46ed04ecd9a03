"""SIGTERM and Ctrl-C, noted for the next safe moment."""

import multiprocessing
import os
import signal
from types import FrameType


class NotedSignals:
    """Note the first SIGTERM or SIGINT instead of dying of it; a SIGINT after it ends the process at once.

    A first signal is passed on to the processes that this one started through multiprocessing, such as the workers of
    a sweep, so that they come to a safe moment too.

    Attributes:
        received: the signal's number, None before one came.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    def listen(self) -> None:
        """From now on note signals, in place of whoever did something else about them."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGINT:
                raise SystemExit(128 + number)
            return
        self.received = signal.Signals(number)
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGTERM)  # not SIGINT, which the terminal has sent them itself


SIGNALS = NotedSignals()
"""What this process was asked to do; signals are a matter of the whole process."""
