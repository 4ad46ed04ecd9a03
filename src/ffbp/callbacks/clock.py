"""How long the training epochs take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch


class TrainingClock(pl.Callback):
    """Seconds spent in training epochs, validation, saving and pictures left out, summed over resumes.

    Logs `time/epoch_seconds`.
    """

    def __init__(self) -> None:
        self.seconds = 0.0  # of all epochs before this one
        self.epoch_seconds = 0.0  # of this epoch, up to the last pause
        self._running_since: float | None = None

    def start(self) -> None:
        self.pause()
        self._running_since = time.perf_counter()

    def pause(self) -> None:
        if self._running_since is None:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # what was asked for is part of the time; once an epoch
        self.epoch_seconds += time.perf_counter() - self._running_since
        self._running_since = None

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do something that is not training."""
        running = self._running_since is not None
        self.pause()
        try:
            yield
        finally:
            if running:
                self.start()

    @property
    def total(self) -> float:
        """Seconds of training up to the last pause."""
        return self.seconds + self.epoch_seconds

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.start()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == "fit":
            self.start()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.pause()
        pl_module.log("time/epoch_seconds", self.epoch_seconds)
        self.seconds, self.epoch_seconds = self.total, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "epoch_seconds": self.epoch_seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seconds, self.epoch_seconds = state_dict["seconds"], state_dict["epoch_seconds"]
