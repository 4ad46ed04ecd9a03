"""SIGTERM and Ctrl-C, noted for the next safe moment."""

import signal
from types import FrameType, TracebackType
from typing import Any


class NotedSignals:
    """While entered, note the first SIGTERM or SIGINT instead of dying of it; a second SIGINT ends at once.

    Attributes:
        received: the signal's number, None before one came.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "NotedSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
