"""A run's settings for its loggers."""

from pathlib import Path, PurePosixPath, PureWindowsPath
from textwrap import indent
from typing import Any, cast

import lightning.pytorch as pl
import yaml
from lightning.pytorch.loggers import TensorBoardLogger

from ffbp.algorithms import Algorithm

GROUPS = ("algo", "model", "data", "seed")
TRAINER = ("max_epochs", "max_steps", "precision", "world_size", "accumulate_grad_batches", "gradient_clip_val")


class LoggedSettings(pl.Callback):
    """Tell every logger what a run was made from, as its hyperparameters; TensorBoard shows them as text, too.

    These are the settings of rule, model, data and seed, and those of the trainer that decide the outcome. Paths of
    this machine are not among them.
    """

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        settings = logged_settings(trainer, cast(Algorithm, pl_module))
        for logger in trainer.loggers:
            logger.log_hyperparams(settings)
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero and trainer.global_step == 0:
                lines = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
                logger.experiment.add_text("settings", indent(lines, "    "), 0)  # indented: shown as it is


def logged_settings(trainer: pl.Trainer, algorithm: Algorithm) -> dict[str, Any]:
    """Nested settings without targets and paths."""
    named = {name: algorithm.settings[name] for name in GROUPS if name in algorithm.settings}
    trained = {name: getattr(trainer, name) for name in TRAINER}
    limit = trainer.limit_train_batches
    return cast(dict[str, Any], _plain(named | {"trainer": trained | {"limit_train_batches": limit}}))


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {str(name): _plain(value) for name, value in node.items() if name != "_target_" and not _is_path(value)}
    if isinstance(node, list | tuple):
        return [_plain(value) for value in node if not _is_path(value)]
    return node if isinstance(node, bool | int | float | str | None) else str(node)


def _is_path(value: Any) -> bool:
    """Whether a value names a place on this machine."""
    if isinstance(value, Path):
        return True
    absolute = isinstance(value, str) and (PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute())
    return absolute or (isinstance(value, str) and value.startswith("~"))
