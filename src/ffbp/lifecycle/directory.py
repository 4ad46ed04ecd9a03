"""A run's directory: where its files lie, how the run stands, and whether somebody works in it."""

import fcntl
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from ffbp.errors import CheckpointError, ConfigError
from ffbp.files import write_text
from ffbp.metrics import read_metrics
from ffbp.plain_text import read_json, read_yaml
from ffbp.processes import FIRST_PROCESS
from ffbp.settings import Settings

OWN_FILES = (
    "status.json",
    ".hydra",
    "checkpoints",
    "metrics.csv",
    "metrics.json",
    "predictions.npz",
    "hparams.yaml",
    "events.out.tfevents.*",
)
"""What a run writes into its directory, the default logger included: nothing else is ever replaced or removed there."""


class Status(NamedTuple):
    """How a run stands."""

    state: str  # running, finished, failed or interrupted
    overrides: Sequence[str]  # what its command line set
    error: str | None = None  # one line that says why it is not finished


class RunDirectory:
    """The files of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last, self.best = path / "checkpoints" / "last.ckpt", path / "checkpoints" / "best.ckpt"
        self.metrics = path / "metrics.json"  # which only a finished run has
        self.rows = path / "metrics.csv"  # one for each epoch
        self.predictions = path / "predictions.npz"  # the answers to the test images
        self.config, self._overrides = path / ".hydra" / "config.yaml", path / ".hydra" / "overrides.yaml"
        self._status = path / "status.json"

    def __str__(self) -> str:
        return str(self.path)

    def write_status(self, status: Status) -> None:
        """Write status.json."""
        write_text(self._status, json.dumps(status._asdict(), indent=2) + "\n")

    def read_status(self) -> Status | None:
        """How the run stands, None where there is none; a CheckpointError if its status.json is damaged."""
        if not self._status.exists():
            return None
        try:
            content = read_json(self._status)
            overrides = content["overrides"] if "overrides" in content else self.read_overrides()
            return Status(content["state"], overrides, content["error"])
        except KeyError as error:
            raise CheckpointError(f"{self._status}: cannot be read ({error}); repair or remove the run.") from error

    def write_settings(self, settings: Settings, overrides: Sequence[str]) -> None:
        """Keep a run's settings where Hydra would, config.yaml last."""
        write_text(self._overrides, OmegaConf.to_yaml(list(overrides)))
        write_text(self.config, OmegaConf.to_yaml(settings))

    def read_overrides(self) -> list[str]:
        """What the command line of the run set; empty where that is not kept."""
        words = read_yaml(self._overrides) if self._overrides.exists() else None
        if not isinstance(words or [], list):
            raise CheckpointError(f"{self._overrides}: a list of words expected; repair or remove the run.")
        return [str(word) for word in words or []]

    def read_metrics(self) -> dict[str, Any] | None:
        """What metrics.json says, None where the run is not finished; a CheckpointError if it is damaged."""
        return read_metrics(self.metrics)

    def require_unused(self) -> None:
        """Raise a ConfigError if anything lies in the directory, a run or files of somebody's own.

        The start of a run that was killed before its config.yaml was whole is nothing.
        """
        found = sorted(self.path.iterdir()) if FIRST_PROCESS else []
        hydra = self.config.parent
        begun = {f".{self.config.name}.new", self._overrides.name, f".{self._overrides.name}.new"}
        if found == [hydra] and not hydra.is_symlink() and begun >= {path.name for path in hydra.glob("*")}:
            return
        if self.read_status() is not None and found:
            raise ConfigError(
                f"{self}: already contains a run; resume it with {shlex.quote(f'resume={self}')}, or choose another."
            )
        if found:
            raise ConfigError(f"{self}: not empty, {found[0].name} lies there; choose a new directory for the run.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Work alone in the directory, which is made where it is missing; a ConfigError if another process works there.

        The lock ends with the process. The processes that share a training are covered by the first one's lock.
        """
        if not FIRST_PROCESS:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(folder)
            raise ConfigError(f"{self}: another process is running there; wait for it, or stop it.") from error
        except OSError:
            pass  # a file system without locks
        try:
            yield
        finally:
            os.close(folder)

    @contextmanager
    def emptied_if_rejected(self) -> Iterator[None]:
        """Remove what the run wrote if it turns out to be impossible before its first checkpoint."""
        before = self._own_files()
        try:
            yield
        except ConfigError:
            for path in self._own_files() - before if not self.last.exists() else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            raise

    def _own_files(self) -> set[Path]:
        return {path for name in OWN_FILES for path in self.path.glob(name)}

    def remove_incomplete(self) -> None:
        """Remove the files that a kill has left half written, see `write_bytes` and `write_checkpoint`."""
        files = (self.metrics, self.rows, self.predictions, self._status, self.config, self._overrides)
        incomplete = [path.with_name(f".{path.name}.new") for path in files]
        for path in (*incomplete, *self.last.parent.glob(".*.ckpt.new")):
            path.unlink(missing_ok=True)

    def remove_if_empty(self) -> None:
        """Remove the folder that Hydra has made for a run that never began."""
        with suppress(OSError):  # something lies there
            self.path.rmdir()


def previous_of(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def nearby_runs(directory: Path) -> str:
    """A sentence that names the latest runs close to a directory that is none, or nothing."""
    folder = next((folder for folder in (directory, *directory.parents) if folder.is_dir()), Path())
    if folder == Path(folder.anchor or "."):  # neither a whole disk nor a whole project is searched
        folder = Path("logs")
    patterns = ["*/" * depth + "checkpoints/last.ckpt" for depth in range(4)]  # logs/sweeps/<date>/<job> is the deepest
    runs = sorted(found.parent.parent for pattern in patterns for found in folder.glob(pattern))
    return f" Runs nearby: {', '.join(map(str, runs[-3:]))}." if runs else ""


def differences(there: Any, here: Any, name: str = "") -> list[str]:
    """Name the settings in which a saved run differs from what is asked for: "seed is 0 there, 1 here"."""
    if isinstance(there, dict) and isinstance(here, dict):
        keys = list(dict.fromkeys([*there, *here]))
        pairs = [(there.get(key), here.get(key), f"{name}.{key}" if name else str(key)) for key in keys]
        return [line for pair in pairs for line in differences(*pair)]
    return [] if there == here else [f"{name} is {there!r} there, {here!r} here"]
