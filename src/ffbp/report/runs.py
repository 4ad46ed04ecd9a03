"""Runs, read from disk, and in groups of those that differ in their seed alone."""

import csv
import io
import math
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ffbp.errors import CheckpointError, ConfigError, one_line
from ffbp.lifecycle.directory import RunDirectory
from ffbp.lifecycle.saved import read_kept
from ffbp.lifecycle.upgrades import upgrade_settings
from ffbp.metrics import read_metrics
from ffbp.plain_text import read_text, read_yaml
from ffbp.report.differences import Flat, effective, identity, labels

COLUMNS = ("epoch", "train/loss", "train/acc", "time/epoch_seconds")  # of every run; others not of every epoch
ALGORITHMS = {"bp": "backprop", "ff": "Forward-Forward"}
# words that metrics.json already reports, or that do not affect the result, for runs without settings
SILENT_WORDS = ("seed=", "algo=", "model=", "data=", "trainer.max_epochs=", "hydra.", "paths.", "callbacks=")


@dataclass(frozen=True)
class Run:
    """One finished run.

    Args:
        metrics: what its metrics.json says.
        history: the columns of its metrics.csv.
        overrides: what its command line set.
        settings: all of its settings, in today's form; empty where they are not kept, as in results/*.json.
        directory: relative to the folder that is compared; empty where that is not known.
    """

    metrics: dict[str, Any]
    history: dict[str, list[float]]
    overrides: list[str]
    settings: dict[str, Any] = field(default_factory=dict)
    directory: str = ""

    @property
    def base(self) -> str:
        """Algorithm and model; for a run of which only the command line is known, the experiment where it names one."""
        named = [word.removeprefix("experiment=") for word in self.overrides if word.startswith("experiment=")]
        algorithm = ALGORITHMS.get(self.metrics["algo"], self.metrics["algo"])
        return named[0] if named and not self.settings else f"{algorithm}, {self.metrics['model']}"

    @cached_property
    def effective(self) -> Flat:
        """What affects its result, by full names: its settings without the seed, its epochs, and the kind of device."""
        if self.settings:
            found = effective(self.settings)
        else:
            words = [word for word in self.overrides if not word.startswith((*SILENT_WORDS, "experiment="))]
            found = {name: value for name, _, value in (word.partition("=") for word in words)}
        limit = (self.settings.get("trainer") or {}).get("max_epochs")
        ends_early = any(name == "trainer.max_time" or name.startswith("callbacks.") for name in found if found[name])
        epochs = limit if ends_early and limit else self.metrics.get("epochs")
        return {**found, "epochs": epochs, "device": self.metrics.get("device") or None}


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> dict[str, Any]:
        """The metrics of one run, for what all of them have in common."""
        return self.runs[0].metrics

    @property
    def seeds(self) -> list[int]:
        """Those of the runs, each once."""
        return sorted({run.metrics["seed"] for run in self.runs})

    def mean(self, name: str) -> float | None:
        """The mean of a metric over the runs, None where it is undefined."""
        values = self.values(name)
        return statistics.fmean(values) if values else None

    def deviation(self, name: str) -> float | None:
        """The sample standard deviation of a metric, None for fewer than two runs."""
        values = self.values(name)
        return statistics.stdev(values) if len(values) > 1 else None

    def values(self, name: str) -> list[float]:
        """A metric of all runs that have it."""
        return [run.metrics[name] for run in self.runs if run.metrics.get(name) is not None]


class Unfinished(NamedTuple):
    """A run that is not finished, or not with all that it was meant to do."""

    directory: str  # relative to the folder that is compared
    state: str  # running, killed, failed, interrupted, unknown
    reason: str  # one line, empty where there is none


class Found(NamedTuple):
    """What lies below a folder."""

    runs: list[Run]  # finished
    unfinished: list[Unfinished]
    damaged: list[str]  # a line for each run that is left out


def find_runs(directory: Path) -> Found:
    """Read all runs below a directory."""
    found = Found([], [], [])
    for path in run_directories(directory):
        name = path.relative_to(directory).as_posix()
        try:
            if (unfinished := how_unfinished(RunDirectory(path), name)) is not None:
                found.unfinished.append(unfinished)
            if (path / "metrics.json").exists() or (path / "metrics.json").is_symlink():
                found.runs.append(replace(_read_run(path), directory=name))
        except CheckpointError as error:
            found.damaged.append(one_line(error))
    return found._replace(runs=_with_data_sets_apart(found.runs))


def _with_data_sets_apart(runs: Sequence[Run]) -> list[Run]:
    """The runs, with a part of their checksums in the names of data sets of one name that hold different images."""
    images = defaultdict(set)
    for run in runs:
        images[run.metrics["data"]].add(run.metrics.get("images"))
    return [
        replace(run, metrics=run.metrics | {"data": f"{run.metrics['data']} {run.metrics.get('images') or 'unknown'}"})
        if len(images[run.metrics["data"]]) > 1
        else run
        for run in runs
    ]


def read_runs(directory: Path) -> list[Run]:
    """Read all finished runs below a directory; one whose files are damaged is named on stderr and left out.

    Raises:
        CheckpointError: if there is no finished run that can be read.
    """
    return require_finished(find_runs(directory), directory).runs


def require_finished(found: Found, directory: Path) -> Found:
    """Name on stderr what is left out; a CheckpointError if there is no finished run that can be read."""
    for line in found.damaged:
        print(f"skipped: {line}", file=sys.stderr)
    if not found.runs:
        raise CheckpointError(f"{directory}: contains no finished runs that can be read; train some first.")
    return found


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs by all that affects their result but the seed, best test accuracy first.

    A label names the settings in which groups of a data set differ that have the same algorithm and model.
    """
    members: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        key = (run.base, *(str(run.metrics[name]) for name in ("data", "algo", "model")), identity(run.effective))
        members[key].append(run)
    found = []
    for data in dict.fromkeys(run.metrics["data"] for run in runs):
        groups = [some for some in members.values() if some[0].metrics["data"] == data]
        called = labels([some[0].base for some in groups], [some[0].effective for some in groups])
        found += [Group(label, tuple(some)) for label, some in zip(called, groups, strict=True)]
    return sorted(found, key=lambda group: -(group.mean("test/acc") or 0.0))


def run_directories(directory: Path) -> Iterator[Path]:
    """The folders below a directory in which a run has left something, in the order of their names."""
    for folder, subfolders, files in os.walk(directory):
        own = {"checkpoints", ".hydra"} | ({"compare"} if Path(folder) == directory else set())
        begun = (".hydra" in subfolders and Path(folder, ".hydra", "config.yaml").exists()) or "status.json" in files
        subfolders[:] = sorted(set(subfolders) - own)
        if begun or "metrics.json" in files:
            yield Path(folder)


def how_unfinished(directory: RunDirectory, name: str) -> Unfinished | None:
    """How a run stands that is not finished; None for one that is."""
    if not (directory.path / "status.json").exists():
        return None if directory.metrics.exists() else Unfinished(name, "unknown", "it has no status.json")
    try:
        status = directory.read_status()
    except CheckpointError as error:
        return None if directory.metrics.exists() else Unfinished(name, "unknown", one_line(error, 300))
    assert status is not None
    reason = one_line(status.error or "", 300)
    if status.state == "finished":
        return None if directory.metrics.exists() else Unfinished(name, "finished", "it has no metrics.json")
    if status.state != "running":
        known = status.state in ("failed", "interrupted")
        return Unfinished(name, status.state if known else "unknown", reason)
    try:
        with directory.locked():
            return Unfinished(name, "killed", "its process is gone")
    except ConfigError:
        return Unfinished(name, "running", reason)
    except OSError:  # a folder that this user may not open
        return Unfinished(name, "unknown", "it may be running")


def read_history(path: Path) -> dict[str, list[float]]:
    """The columns of a metrics.csv, a value for each epoch; a CheckpointError if it is missing or damaged."""
    try:
        return _columns(read_text(path, 32_000_000))
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be read ({reason}); remove or repeat the run.") from error


def _read_run(directory: Path) -> Run:
    metrics, history = read_metrics(directory / "metrics.json"), read_history(directory / "metrics.csv")
    words = read_yaml(path := directory / ".hydra" / "overrides.yaml") or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{path}: a list of words expected; remove or repeat the run.")
    config = directory / ".hydra" / "config.yaml"
    settings = upgrade_settings(read_kept(config)) if config.exists() else {}
    return Run(metrics or {}, history, sorted(one_line(word) for word in words), settings)


def _columns(text: str) -> dict[str, list[float]]:
    """The columns of a metrics.csv, NaN where an epoch was not validated; a ValueError for what we do not write."""
    names, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    if not rows or not all(len(row) == len(names) for row in rows):
        raise ValueError("a line for each epoch expected, as long as the first")
    columns = {name: [float(value or "nan") for value in column] for name, *column in zip(names, *rows, strict=True)}
    if missing := set(COLUMNS) - set(columns):
        raise ValueError(f"no values of {', '.join(sorted(missing))}")
    if not all(math.isnan(value) or abs(value) < 1e30 for values in columns.values() for value in values):
        raise ValueError("numbers of a finite size expected")
    if any(math.isnan(number) for name in ("epoch", "time/epoch_seconds") for number in columns[name]):
        raise ValueError("the number and the seconds of each epoch expected")
    return columns
