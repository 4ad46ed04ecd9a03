"""SIGTERM and Ctrl-C: finish the batch, save, say how to go on."""

import signal
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from ffbp.callbacks.record import RunRecord
from ffbp.errors import Interrupted


class StopOnSignal(pl.Callback):
    """Turn the first SIGTERM or SIGINT into a checkpoint and an end at the next batch; a second SIGINT stops at once.

    Args:
        record: what saves.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # only now: Lightning has put its own handlers in place by here
        self._before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        for number in self._before:
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.raise_signal(signal.SIGINT)
        self.received = number

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # an epoch's last batch is followed by its validation, and only then can it be saved
        if self.received is not None and not trainer.is_last_batch:
            self.record.save(trainer)
            self._stop(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.received is not None and trainer.current_epoch > 0:
            self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        assert self.received is not None
        raise Interrupted(
            f"stopped by {signal.Signals(self.received).name} in epoch {trainer.current_epoch}, "
            f"step {trainer.global_step}, and saved. Go on with: python train.py resume={self.record.directory}",
            self.received,
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
