"""Parts of a run that cannot work together, found before anything is written."""

import re
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from ffbp.data import MemoryData
from ffbp.errors import ConfigError, ResourceError
from ffbp.lifecycle.directory import RunDirectory

MEASURED = re.compile(r"val/(loss|acc(_\w+)?)|(?!val/|test/)\w+/[\w/]+")
"""What can be monitored: a rule may measure anything in its training, but no more in the validation."""


def reject_conflicts(trainer: pl.Trainer, data: MemoryData, directory: RunDirectory) -> None:
    """Raise a ConfigError for a callback that waits for what is not measured, or a part that overwrites our files."""
    validated = data.val is not None and trainer.limit_val_batches != 0
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None)
        said = f"{type(callback).__name__} monitors {monitor}"
        if isinstance(monitor, str) and monitor.startswith("val/") and not validated:
            raise ConfigError(f"{said}, and nothing is validated; set data.val_size, or monitor train/acc.")
        if isinstance(monitor, str) and not MEASURED.fullmatch(monitor):
            raise ConfigError(f"{said}, which is not measured; train/acc, train/loss, val/acc or val/loss expected.")
        if isinstance(callback, EarlyStopping):
            each = callback._check_on_train_epoch_end  # Lightning's default is whether all epochs are validated
            each = trainer.check_val_every_n_epoch == 1 if each is None else each
            if str(monitor).startswith("val/") and each and trainer.check_val_every_n_epoch != 1:
                raise ConfigError(f"{said}, which not every epoch measures; leave check_on_train_epoch_end out.")
            if not str(monitor).startswith("val/") and not each:
                raise ConfigError(
                    f"{said} after validations, when it is not measured; set check_on_train_epoch_end=true."
                )
        if isinstance(callback, ModelCheckpoint):
            folder = Path(callback.dirpath or directory.last.parent)
            names = {callback.filename, callback.CHECKPOINT_NAME_LAST if callback.save_last else None}
            if folder.resolve() == directory.last.parent.resolve() and names & {"last", "best"}:
                raise ConfigError(f"ModelCheckpoint would overwrite the run's own in {folder}; set its dirpath.")
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger) and Path(logger.log_dir).resolve() == directory.path.resolve():
            raise ConfigError(f"CSVLogger would overwrite {directory.rows}, which is always written; set its name.")


def require_compiler(device: torch.device) -> None:
    """Raise a ResourceError if this machine cannot compile even something small."""
    try:
        torch.compile(torch.sin)(torch.ones(2, device=device))
    except Exception as error:
        said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ResourceError(
            f"compile=true: does not work here ({said}); install a compiler, or leave it out."
        ) from error
