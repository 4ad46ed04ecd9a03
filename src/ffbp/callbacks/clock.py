"""How long the training epochs take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class TrainingClock:
    """Seconds spent in training epochs; validation, saving and pictures are left out by pausing.

    Attributes:
        seconds: of all finished epochs.
        epoch_seconds: of the one that runs, up to the last pause.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self.epoch_seconds = 0.0
        self._running_since: float | None = None

    def start(self) -> None:
        """Go on counting."""
        self.pause()
        self._running_since = time.perf_counter()

    def pause(self) -> None:
        """Stop counting, until the next start."""
        if self._running_since is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what was asked of the device is part of the time
        self.epoch_seconds += time.perf_counter() - self._running_since
        self._running_since = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do something that is not training."""
        self.pause()
        try:
            yield
        finally:
            self.start()

    def end_epoch(self) -> float:
        """Pause, close the epoch and return its seconds."""
        self.pause()
        epoch, self.epoch_seconds = self.epoch_seconds, 0.0
        self.seconds += epoch
        return epoch

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {"seconds": self.seconds, "epoch_seconds": self.epoch_seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        """Go on from what a checkpoint kept."""
        self.seconds, self.epoch_seconds = state["seconds"], state["epoch_seconds"]
