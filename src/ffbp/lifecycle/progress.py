"""What a terminal shows while a run trains: a bar for the current epoch, below one line for each finished one."""

import sys
from collections.abc import Mapping
from shutil import get_terminal_size
from typing import Any

import lightning.pytorch as pl
from tqdm import tqdm  # type: ignore[import-untyped]

FORMAT = "{desc} {percentage:3.0f} % |{bar}| {remaining} left"  # fits into 40 columns


class EpochBar(pl.Callback):
    """Draw a bar for the epoch, the validation or the test that is under way, and remove it afterwards."""

    def __init__(self) -> None:
        self._bar: Any = None  # tqdm's

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is None:  # also in the middle of an epoch, where a run is resumed
            self._begin(f"epoch {epoch_number(trainer)}", trainer.num_training_batches, batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._bar.update()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()
        self._begin(f"epoch {epoch_number(trainer)}, validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, trainer: pl.Trainer, *batch: Any, **more: Any) -> None:
        self._bar.update()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end()  # before `RunRecord`, which comes last, prints the epoch's line

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin("test", sum(trainer.num_test_batches))

    def on_test_batch_end(self, trainer: pl.Trainer, *batch: Any, **more: Any) -> None:
        self._bar.update()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end()

    def _begin(self, what: str, batches: float, done: int = 0) -> None:
        total = int(batches) if batches < float("inf") else None
        width = get_terminal_size().columns - 3  # the terminal writes ^C behind it
        self._bar = tqdm(
            desc=what, total=total, initial=done, leave=False, file=sys.stdout, ncols=width, bar_format=FORMAT
        )

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def epoch_number(trainer: pl.Trainer) -> str:
    """The current epoch, counted from 1, and how many there are at most: " 3/10"."""
    most = str(trainer.max_epochs) if (trainer.max_epochs or -1) > 0 else ""
    return f"{trainer.current_epoch + 1:{len(most) or 1}}{'/' if most else ''}{most}"


def epoch_line(trainer: pl.Trainer, row: Mapping[str, float], seconds: float) -> str:
    """What a finished epoch measured, in one line of 80 columns: "epoch 1/5  train loss 0.3041 acc 0.9112  ..."."""
    parts = [f"epoch {epoch_number(trainer)}"]
    for phase in ("train", "val"):
        shown = [f"{name} {row[f'{phase}/{name}']:.4f}" for name in ("loss", "acc") if f"{phase}/{name}" in row]
        parts += [" ".join([phase, *shown])] if shown else []
    return "  ".join([*parts, f"{seconds:.1f} s"])
