"""The processes of a run: which one this is, signals that wait for a safe moment, and a process for each job."""

import ctypes
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from types import FrameType

FIRST_PROCESS = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
"""Whether this is the process that the user started, and not one that shares its training."""


class NotedSignals:
    """Note the first SIGTERM or SIGINT instead of dying of it; a SIGINT after it ends the process at once.

    The first signal is passed on to the processes that this one started through multiprocessing, such as the workers
    of a sweep, so that they stop at a safe moment too.
    """

    received: signal.Signals | None = None  # the signal that came
    _at_once = False

    def listen(self, *, at_once: bool = False) -> None:
        """From now on note signals, in place of whatever handled them before.

        `at_once`: raise a SystemExit at the first one too, while there is nothing that could be lost; now, if it came.
        """
        self._at_once = at_once
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        if at_once and self.received is not None:
            raise SystemExit(128 + self.received)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGINT:
                raise SystemExit(128 + number)
            return
        self.received = signal.Signals(number)
        for child in multiprocessing.active_children():
            assert child.pid is not None
            os.kill(child.pid, signal.SIGTERM)  # not SIGINT, which the terminal has sent them itself
        if self._at_once:
            raise SystemExit(128 + number)


SIGNALS = NotedSignals()
"""What this process was asked to do; signals concern the whole process."""


def run_in_own_process(task: Callable[[], int]) -> int:
    """Run something in a process of its own, so that what kills it, such as a lack of memory, kills nothing else.

    Returns the exit code; negative if a signal killed the process.
    """
    if sys.platform != "linux":  # where a process cannot be forked safely
        try:
            return task()
        except Exception:
            traceback.print_exc()
            return 1

    def child() -> None:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: or it would go on when the sweep is killed
        sys.exit(task())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def first_process_ends(seconds: float = 10.0) -> bool:
    """Wait for the process that started this one: it meets the same error, says so, and should be the first to go."""
    parent, deadline = os.getppid(), time.monotonic() + seconds
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.05)
    return os.getppid() != parent
