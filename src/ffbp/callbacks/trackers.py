"""Runs told to W&B and to MLflow by Lightning's own loggers; a resumed run goes on with what it has begun there.

Both send or write elsewhere than into the run's directory, so a run from somebody else uses them only where it is
trusted, see `ffbp.lifecycle.trust`.
"""

import fcntl
import json
import os
import shutil
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import MLFlowLogger, WandbLogger

from ffbp.callbacks.tensorboard import flat
from ffbp.errors import ConfigError, one_line
from ffbp.files import write_text
from ffbp.plain_text import read_json

PACKAGES = "mlflow-skinny sqlalchemy alembic"
"""What MLflow needs to write a database, as the whole mlflow brings it."""


class Wandb(WandbLogger):
    """Lightning's logger for W&B, whose files lie in the folder `wandb` of the run's directory.

    Args:
        save_dir: the run's directory.
        offline: send nothing; `wandb sync <save_dir>/wandb/offline-run-*` does it later.
        more: those of Lightning's logger, and of `wandb.init`.
    """

    tested = False  # whether the run has come to its end

    def __init__(self, save_dir: str, offline: bool = False, **more: Any) -> None:
        self.folder = Path(save_dir, "wandb").absolute()
        begun = sorted(path.name.partition("run-")[2] for path in self.folder.glob("*run-*-*"))  # by their times
        if begun and not more.get("id"):
            more["id"] = begun[-1].rpartition("-")[2]
        with _one_line("wandb", "wandb", "see logger.wandb"):
            super().__init__(save_dir=save_dir, offline=offline, **more)
        if not more.get("anonymous"):
            self._wandb_init.pop("anonymous", None)  # W&B warns of it, whatever it is

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is not None:
            return self._experiment
        os.environ |= {f"WANDB_{name}_DIR": str(self.folder / "cache") for name in ("CACHE", "DATA", "ARTIFACT")}
        new = not self.folder.exists()
        try:
            with _one_line("wandb", "wandb", "run `wandb login`, or add logger.wandb.offline=true"):
                return super().experiment
        except ConfigError:
            if new:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.tested = self.tested or "test/acc" in metrics
        super().log_metrics(metrics, step)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        if self._experiment is not None and (self.tested or status != "success"):  # else the test is still to come
            self._experiment.finish(exit_code=0 if status == "success" else 1)


class MLflow(MLFlowLogger):
    """Lightning's logger for MLflow. The run's `mlflow.json` says where the run is told to, and under which id.

    Args:
        save_dir: the run's directory.
        tracking_uri: a database such as sqlite:///logs/mlflow.db, or a server; what a resumed run began with counts.
        more: those of Lightning's logger.
    """

    def __init__(self, save_dir: str, tracking_uri: str, **more: Any) -> None:
        for name, value in (("DISABLE_TELEMETRY", "true"), ("LOGGING_LEVEL", "ERROR")):
            os.environ.setdefault(f"MLFLOW_{name}", value)
        self.note = Path(save_dir, "mlflow.json")
        if self.note.exists():
            begun = read_json(self.note)
            tracking_uri, more["run_id"] = str(begun.get("tracking_uri")), str(begun.get("run_id"))
        with _one_line("mlflow", PACKAGES, "see logger.mlflow.tracking_uri"), ExitStack() as alone:
            if tracking_uri.startswith("sqlite:///"):
                database = Path(tracking_uri.removeprefix("sqlite:///")).absolute()
                alone.enter_context(_locked(database.parent))  # else two jobs of a sweep make its tables at a time
                tracking_uri = f"sqlite:///{database}"
            super().__init__(tracking_uri=tracking_uri, **more)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._initialized:
            return self._mlflow_client
        with _one_line("mlflow", PACKAGES, f"see logger.mlflow.tracking_uri, and {self.note}"):
            client = super().experiment
            client.update_run(self._run_id, "RUNNING")  # also where it was interrupted
        write_text(self.note, json.dumps({"tracking_uri": self._tracking_uri, "run_id": self._run_id}, indent=2) + "\n")
        return client

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        there = self.experiment.get_run(self.run_id).data.params  # which cannot be changed
        found = params if isinstance(params, dict) else vars(params)
        super().log_hyperparams({name: value for name, value in flat(found).items() if name not in there})


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder, and be the only one who holds it where the file system has locks."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _one_line(name: str, packages: str, advice: str) -> Iterator[None]:
    """Raise a ConfigError for whatever a tracker says that cannot be used."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"logger={name}: needs packages that are missing ({error}); pip install {packages}."
        ) from error
    except Exception as error:  # of any kind, from the network, the database or a login
        raise ConfigError(f"logger={name}: {one_line(error, 300).rstrip('.')}; {advice}.") from error
