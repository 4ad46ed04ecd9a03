"""Curves for TensorBoard."""

from types import SimpleNamespace
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger


class TensorBoard(TensorBoardLogger):
    """Lightning's logger, without the name of this machine in the names of its files, which people pass on."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        from tensorboard.summary.writer import event_file_writer  # type: ignore[import-untyped]

        event_file_writer.socket = SimpleNamespace(gethostname=lambda: "run")  # all that it is used for there
        return super().experiment
