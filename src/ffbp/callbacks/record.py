"""What a run leaves in its directory while it trains: checkpoints and metrics.csv."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from ffbp.algorithms import Algorithm
from ffbp.callbacks.clock import TrainingClock


class RunRecord(Checkpoint):
    """Save last.ckpt and best.ckpt, and one row of metrics.csv an epoch.

    The rows are part of the checkpoint: a resumed run goes on with exactly those that belong to where it goes on.
    An epoch is saved when it is complete, validation included, so that a resumed run repeats no half of it. Best is
    the highest val/acc, or the latest epoch where there is no validation.

    Args:
        directory: of the run.
        clock: held while a checkpoint is written.
        every_n_steps: save within epochs too; 0 for epochs only.
        announce: print a line an epoch, where there is no terminal for a progress bar.
    """

    def __init__(self, directory: Path, clock: TrainingClock, every_n_steps: int, announce: bool) -> None:
        self.directory, self.clock, self.every_n_steps, self.announce = directory, clock, every_n_steps, announce
        self.rows: list[dict[str, float]] = []
        self.best: dict[str, float] = {}  # the row of best.ckpt
        self._validation: dict[str, float] = {}  # of the epoch that is about to end

    @property
    def last_path(self) -> Path:
        return self.directory / "checkpoints" / "last.ckpt"

    @property
    def best_path(self) -> Path:
        return self.directory / "checkpoints" / "best.ckpt"

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.every_n_steps and trainer.global_step % self.every_n_steps == 0 and not trainer.is_last_batch:
            self.save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation = _floats(trainer.callback_metrics, "val/")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        metrics = trainer.callback_metrics
        measured = _floats(metrics, "train/") | self._validation | _floats(metrics, "ff/") | _floats(metrics, "time/")
        row: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step, **measured}
        self._validation = {}
        self.rows.append(row)
        if self.announce:
            _print_line(row, trainer.max_epochs)
        if trainer.fast_dev_run:
            return
        if row.get("val/acc", -1.0) > self.best.get("val/acc", -1.0) or "val/acc" not in row | self.best:
            self.best = row
            # first of the two: a run killed between them goes on from the older last, and comes to this best again
            self._write(trainer, self.best_path)
        self._write(trainer, self.last_path)
        if trainer.is_global_zero:
            write_rows(self.directory / "metrics.csv", self.rows)

    def save(self, trainer: pl.Trainer) -> None:
        """Save last.ckpt as the run stands, within an epoch."""
        if not trainer.fast_dev_run:
            with self.clock.paused():
                self._write(trainer, self.last_path)

    def _write(self, trainer: pl.Trainer, path: Path) -> None:
        cast(Algorithm, trainer.lightning_module).check_finite()  # nothing broken replaces what was good
        trainer.save_checkpoint(path)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.best = state_dict["rows"], state_dict["best"]


def _floats(metrics: Mapping[str, Tensor], prefix: str) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if name.startswith(prefix)}


def _print_line(row: dict[str, float], epochs: int | None) -> None:
    of = f"/{epochs}" if epochs is not None and epochs > 0 else ""
    values = [f"{name} {row[name]:.4f}" for name in ("train/loss", "train/acc", "val/loss", "val/acc") if name in row]
    print(f"epoch {row['epoch'] + 1}{of}  {'  '.join(values)}  {row['time/epoch_seconds']:.1f} s", flush=True)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    os.replace(new, path)


def write_rows(path: Path, rows: list[dict[str, float]]) -> None:
    """Replace a CSV file; the columns are all that any row has."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
