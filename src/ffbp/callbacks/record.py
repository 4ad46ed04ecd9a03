"""What a run leaves in its directory while it trains: checkpoints, metrics.csv and its time."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from signal import Signals
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from ffbp.algorithms import Algorithm
from ffbp.callbacks.clock import TrainingClock
from ffbp.errors import Interrupted
from ffbp.files import write_text
from ffbp.signals import NotedSignals


class RunRecord(Checkpoint):
    """Save last.ckpt and best.ckpt, write one row of metrics.csv an epoch, keep the time, heed signals.

    The rows and the time are part of the checkpoint: a resumed run goes on with exactly those that belong to where it
    goes on. An epoch is saved when it is complete, validation included, so that a resumed run repeats no half of it.
    Best is the highest val/acc, or the latest epoch where there is no validation. The epoch at `trainer.max_epochs` is
    always validated, also where `trainer.check_val_every_n_epoch` would leave it out.

    Args:
        directory: of the run.
        every_n_steps: save within epochs too; 0 for epochs only.
        announce: print a line an epoch, where there is no terminal for a progress bar.
        signals: at the batch after one was noted, save and stop.
        rehearsal: write nothing, as Lightning's fast_dev_run wants it.
    """

    def __init__(
        self, directory: Path, *, every_n_steps: int, announce: bool, signals: NotedSignals, rehearsal: bool
    ) -> None:
        self.directory, self.every_n_steps, self.announce = directory, every_n_steps, announce
        self.signals, self.rehearsal = signals, rehearsal
        self.clock = TrainingClock()
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] = {}  # the row of best.ckpt
        self._validation: dict[str, float] = {}  # of the epoch that is about to end

    @property
    def last_path(self) -> Path:
        return self.directory / "checkpoints" / "last.ckpt"

    @property
    def best_path(self) -> Path:
        return self.directory / "checkpoints" / "best.ckpt"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.listen()  # from here on Lightning has handlers of its own, which exit with 0
        self.on_train_epoch_start(trainer, pl_module)  # which a run resumed within an epoch does not come by

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.listen()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1
        self.clock.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stop = self._asked_to_stop(trainer)
        due = self.every_n_steps and trainer.global_step % self.every_n_steps == 0
        # an epoch's last batch is followed by its validation, and only then can it be saved
        if (stop or due) and not trainer.is_last_batch:
            with self.clock.paused():
                self._write(trainer, self.last_path)
            if stop:
                self._stop(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.clock.pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation = _floats(trainer.callback_metrics, "val/")
        self.clock.start()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = self.clock.end_epoch()
        pl_module.log("time/epoch_seconds", seconds)
        metrics = trainer.callback_metrics
        row: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row |= _floats(metrics, "train/") | self._validation
        # not from the metrics: those that an epoch does not have would be there from the one before
        row |= {name: float(value) for name, value in cast(Algorithm, pl_module).measured.items()}
        row["time/epoch_seconds"] = seconds
        self._validation = {}
        self.rows.append(row)
        if self.announce and trainer.is_global_zero:
            _print_line(row, trainer.max_epochs)
        if row.get("val/acc", -1.0) > self.best.get("val/acc", -1.0) or "val/acc" not in row | self.best:
            self.best = row
            # first of the two: a run killed between them goes on from the older last, and comes to this best again
            self._write(trainer, self.best_path)
        self._write(trainer, self.last_path)
        if trainer.is_global_zero and not self.rehearsal:
            write_rows(self.directory / "metrics.csv", self.rows)
        if self._asked_to_stop(trainer):
            self._stop(trainer)

    def _asked_to_stop(self, trainer: pl.Trainer) -> bool:
        """Whether a signal came, here or to any other process of this run: all save and stop at the same step."""
        return trainer.strategy.reduce_boolean_decision(self.signals.received is not None, all=False)

    def _stop(self, trainer: pl.Trainer) -> None:
        number = self.signals.received or Signals.SIGTERM
        raise Interrupted(
            f"stopped by {number.name} in epoch {trainer.current_epoch + 1}, step {trainer.global_step}, and saved. "
            f"Go on with: python train.py resume={self.directory}",
            number,
        )

    def _write(self, trainer: pl.Trainer, path: Path) -> None:
        cast(Algorithm, trainer.lightning_module).check_finite()  # nothing broken replaces what was good
        if not self.rehearsal:
            trainer.save_checkpoint(path)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "best": self.best, "clock": self.clock.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.best = state_dict["rows"], state_dict["best"]
        self.clock.load_state_dict(state_dict["clock"])


def _floats(metrics: Mapping[str, Tensor], prefix: str) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if name.startswith(prefix)}


def _print_line(row: dict[str, float], epochs: int | None) -> None:
    of = f"/{epochs}" if epochs is not None and epochs > 0 else ""
    values = [f"{name} {row[name]:.4f}" for name in ("train/loss", "train/acc", "val/loss", "val/acc") if name in row]
    print(f"epoch {row['epoch'] + 1}{of}  {'  '.join(values)}  {row['time/epoch_seconds']:.1f} s", flush=True)


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Replace a CSV file; the columns are all that any row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
