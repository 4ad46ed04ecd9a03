"""Curves for TensorBoard."""

from argparse import Namespace
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger

METRICS = ("test/acc", "val/acc")
"""What TensorBoard's table of hyperparameters shows of a run."""


class TensorBoard(TensorBoardLogger):
    """Lightning's logger with three differences.

    The names of its files, which people pass on, are without the name of this machine. The epoch is no curve. The table
    of hyperparameters has the accuracies in validation and test, which are those of the curves.
    """

    tested = False  # whether the run has come to its end

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        from tensorboard.summary.writer import event_file_writer  # type: ignore[import-untyped]

        event_file_writer.socket = SimpleNamespace(gethostname=lambda: "run")  # all that it is used for there
        return super().experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.tested = self.tested or "test/acc" in metrics
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        super().log_hyperparams(params, metrics, step)
        if metrics is None and self.hparams:
            experiment, start, _ = self._summaries()
            for summary in (experiment, start):
                self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self.tested and status == "success" and self.hparams:
            self.experiment._get_file_writer().add_summary(self._summaries()[2])
        super().finalize(status)

    def _summaries(self) -> tuple[Any, Any, Any]:
        """What TensorBoard's table is made of: its columns, this run's values, and that the run has ended well."""
        from torch.utils.tensorboard.summary import hparams

        return hparams(flat(dict(self.hparams)), dict.fromkeys(METRICS, 0.0))  # type: ignore[no-any-return, no-untyped-call]


def flat(params: Mapping[str, Any], above: str = "") -> dict[str, bool | float | str]:
    """Nested parameters by names such as `algo.optimizer.lr`; lists are text, and None is left out."""
    found: dict[str, bool | float | str] = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{name}.")
        elif value is not None:
            found[f"{above}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
