"""A run's directory: what lies there of its settings and its state, and whether somebody works in it."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from ffbp.errors import CheckpointError, ConfigError
from ffbp.files import write_text


class Status(NamedTuple):
    """How a run stands.

    Attributes:
        state: running, finished, failed or interrupted.
        overrides: what its command line set.
        error: the one line that says why it is not finished.
    """

    state: str
    overrides: Sequence[str]
    error: str | None = None


def write_status(directory: Path, status: Status) -> None:
    """Say in status.json how the run stands.

    Raises:
        ResourceError: if the directory cannot be written.
    """
    write_text(directory / "status.json", json.dumps(status._asdict(), indent=2) + "\n")


def read_status(directory: Path) -> Status | None:
    """How the run in `directory` stands, None where there is none.

    Raises:
        CheckpointError: if its status.json is damaged.
    """
    path = directory / "status.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        return Status(content["state"], content.get("overrides", read_overrides(directory)), content["error"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); repair or remove the run.") from error


def read_overrides(directory: Path) -> list[str]:
    """What the command line of a run set, as Hydra keeps it; empty where that is not kept."""
    path = directory / ".hydra" / "overrides.yaml"
    return [str(word) for word in OmegaConf.load(path)] if path.exists() else []


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Work in a run's directory, alone; the lock ends with the process, however that ends.

    Raises:
        ConfigError: if another process works there.
    """
    folder = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(folder)
        raise ConfigError(f"{directory}: a run is going on there; wait for its end, or stop it.") from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(folder)


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
