"""What a run writes while it trains: checkpoints, and metrics.csv with its measures and times."""

import csv
import io
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Checkpoint, Timer

from ffbp.algorithms import Algorithm
from ffbp.errors import CheckpointError, Interrupted
from ffbp.files import PROGRAM, write_text
from ffbp.lifecycle.checkpoint import read_checkpoint, replace_damaged
from ffbp.lifecycle.directory import RunDirectory, previous_of
from ffbp.lifecycle.progress import epoch_line
from ffbp.processes import NotedSignals
from ffbp.settings import BestEpoch


@dataclass
class TrainingClock:
    """Seconds spent in training epochs; it is paused during validation, saving and drawing."""

    seconds: float = 0.0  # of all finished epochs
    epoch_seconds: float = 0.0  # of the current epoch, up to the last pause
    _started: float | None = field(default=None, init=False)

    def start(self) -> None:
        """Start counting, or continue after a pause."""
        self.pause()
        self._started = time.perf_counter()

    def pause(self) -> None:
        """Stop counting until the next start."""
        if self._started is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # the work queued on the GPU is part of the time
            self.epoch_seconds += time.perf_counter() - self._started
            self._started = None

    def end_epoch(self) -> float:
        """Pause, add the epoch to `seconds`, and return how long it took."""
        self.pause()
        epoch, self.epoch_seconds = self.epoch_seconds, 0.0
        self.seconds += epoch
        return epoch


class LastEpochValidated(pl.Callback):
    """Validate at the end of the training, whatever `trainer.check_val_every_n_epoch` says.

    That is after the epoch at `trainer.max_epochs`, or after the batch at `trainer.max_steps`.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)  # Lightning skips this hook when it resumes within an epoch

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == trainer.max_steps:
            trainer.check_val_every_n_epoch, trainer.val_check_batch = 1, batch_idx + 1


class RunRecord(Checkpoint):
    """Save last.ckpt and best.ckpt, add a row to metrics.csv each epoch, measure time, and stop on a signal.

    Checkpoints contain the rows and the time, so that a resumed run continues with exactly those of its step. An epoch
    is saved after its validation, so that a resumed run repeats neither. The best checkpoint is that of `best` among
    the validated epochs, or the latest epoch's if there is no validation.

    Args:
        directory: of the run.
        every_n_steps: save within epochs too; 0 for epochs only.
        best: the epoch with the highest val/acc, the first of equal ones, or the latest.
        signals: once one has been received, save after the current batch and stop.
        rehearsal: write nothing, for Lightning's fast_dev_run.
    """

    def __init__(
        self, directory: RunDirectory, *, every_n_steps: int, best: BestEpoch, signals: NotedSignals, rehearsal: bool
    ) -> None:
        self.directory, self.every_n_steps = directory, every_n_steps
        self.latest_is_best = best == "latest"
        self.signals, self.rehearsal = signals, rehearsal
        self.clock = TrainingClock()
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] = {}  # the row of best.ckpt
        self.stopped = False  # by early stopping

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = self.stopped
        if self.best:  # resumed
            self.best = trainer.strategy.broadcast(self._intact_best() if trainer.is_global_zero else self.best)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and trainer.global_step:
            print(f"resumed in epoch {trainer.current_epoch + 1}, step {trainer.global_step}", flush=True)
        self.signals.listen()  # Lightning has just installed signal handlers of its own, which exit with 0
        self.clock.start()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.listen(at_once=True)  # a resumed run is tested again

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.clock.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stop = self._asked_to_stop(trainer)
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        # no checkpoint holds gradients that are still being added up; after the last batch the epoch is saved once
        # validated
        ends = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        if (stop or due) and not ends and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.clock.pause()
            self._save(trainer, self.directory.last)
            self.clock.start()
            if stop:
                self._stop(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.clock.pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.clock.start()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = self.clock.end_epoch()
        pl_module.log("time/epoch_seconds", seconds)
        measured = {name: float(value) for name, value in cast(Algorithm, pl_module).epoch_metrics.items()}
        row = {"epoch": trainer.current_epoch, "step": trainer.global_step, **measured, "time/epoch_seconds": seconds}
        self.rows.append(row)
        if trainer.is_global_zero:
            print(epoch_line(trainer, row, seconds), flush=True)
        if self._is_best(row):
            self.best = row
            # before last.ckpt: a run killed between the two resumes from the older last and finds this best again
            self._save(trainer, self.directory.best)
        self._save(trainer, self.directory.last)
        if trainer.is_global_zero and not self.rehearsal:
            write_rows(self.directory.rows, self.rows)
        if self._asked_to_stop(trainer):
            self._stop(trainer)

    def _is_best(self, row: dict[str, float]) -> bool:
        """Whether an epoch takes the place of the best one so far."""
        if "val/acc" not in row:
            return "val/acc" not in self.best
        return self.latest_is_best or row["val/acc"] > self.best.get("val/acc", -1.0)

    def _asked_to_stop(self, trainer: pl.Trainer) -> bool:
        """Whether any process of this run received a signal: all save and stop at the same step."""
        return trainer.strategy.reduce_boolean_decision(self.signals.received is not None, all=False)

    def _stop(self, trainer: pl.Trainer) -> None:
        number = self.signals.received or Signals.SIGTERM
        after = f"Resume with: {PROGRAM.format('train')} {shlex.quote(f'resume={self.directory}')}"
        if any(isinstance(callback, Timer) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            after = "It cannot be resumed, since trainer.max_time ends it by the clock."
        where = f"epoch {trainer.current_epoch + 1}, step {trainer.global_step}"
        raise Interrupted(f"stopped by {number.name} in {where}, and saved. {after}", number)

    def _intact_best(self) -> dict[str, float]:
        """The row of best.ckpt; where that is damaged, of the checkpoint that takes its place."""
        best, last = self.directory.best, self.directory.last
        try:
            read_checkpoint(best)
            return self.best
        except CheckpointError as error:
            problem = error
        rows = {path: _rows(path) for path in (last, previous_of(last), previous_of(best))}
        for path, found in rows.items():  # the best epoch may have been saved under another name too
            if found[-1:] == [self.best]:
                replace_damaged(best, path)
                return self.best
        if found := rows[previous_of(best)]:
            print(f"{problem} Going on with that one as the best.", file=sys.stderr)
            replace_damaged(best, previous_of(best))
            return found[-1]
        for path in (last, previous_of(last)):  # a finished run, which is trained longer, has dropped the best before
            if found := rows[path]:
                print(f"{problem} Going on with {path} as the best so far.", file=sys.stderr)
                replace_damaged(best, path)
                return found[-1]
        raise problem

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        cast(Algorithm, trainer.lightning_module).check_finite()  # a broken model must not replace a good checkpoint
        self.stopped = trainer.should_stop
        if not self.rehearsal:
            trainer.save_checkpoint(path)

    def state_dict(self) -> dict[str, Any]:
        clock = {"seconds": self.clock.seconds, "epoch_seconds": self.clock.epoch_seconds}
        return {"rows": self.rows, "best": self.best, "clock": clock, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.best = state_dict["rows"], state_dict["best"]
        self.stopped = state_dict.get("stopped", False)  # up to format 4, it was not said
        self.clock = TrainingClock(**state_dict["clock"])


def _rows(path: Path) -> list[dict[str, float]]:
    """The epochs of a checkpoint that was saved at the end of one; empty for any other, or if it is damaged."""
    try:
        content = read_checkpoint(path)
    except CheckpointError:
        return []
    rows: list[dict[str, float]] = content["callbacks"]["RunRecord"]["rows"]
    return rows if rows and rows[-1]["step"] == content["global_step"] else []


@contextmanager
def off_the_clock(trainer: pl.Trainer) -> Iterator[None]:
    """Do something between two batches or within one whose time is not that of the training, such as measuring."""
    clocks = [callback.clock for callback in trainer.callbacks if isinstance(callback, RunRecord)]  # type: ignore[attr-defined]
    for clock in clocks:
        clock.pause()
    yield
    for clock in clocks:
        clock.start()


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Replace a CSV file; it gets a column for every name that occurs in any row."""
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(name for row in rows for name in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
