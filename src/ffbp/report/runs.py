"""Finished runs, read from disk and grouped by everything but their seed."""

import csv
import io
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffbp.errors import CheckpointError, one_line
from ffbp.metrics import read_metrics
from ffbp.plain_text import read_text, read_yaml

# overrides that metrics.json already reports, or that do not affect the result
SILENT = ("seed=", "algo=", "model=", "data=", "trainer.max_epochs=", "experiment=", "hydra.", "paths.", "callbacks=")
COLUMNS = ("epoch", "train/loss", "train/acc", "time/epoch_seconds")  # of every run; others not of every epoch
ALGORITHMS = {"bp": "backprop", "ff": "Forward-Forward"}


@dataclass(frozen=True)
class Run:
    """One finished run: its metrics.json, the columns of its metrics.csv, and the overrides of its command line."""

    metrics: dict[str, Any]
    history: dict[str, list[float]]
    overrides: list[str]

    @property
    def label(self) -> str:
        """Its experiment, or else algorithm and model, and the settings that were changed, except the seed."""
        algorithm = ALGORITHMS.get(self.metrics["algo"], self.metrics["algo"])
        named = [word.removeprefix("experiment=") for word in self.overrides if word.startswith("experiment=")]
        changed = [word for word in self.overrides if not word.startswith(SILENT)]
        return ", ".join([named[0] if named else f"{algorithm}, {self.metrics['model']}", *changed])


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    label: str
    runs: tuple[Run, ...]

    @property
    def first(self) -> dict[str, Any]:
        """The metrics of one run, for what all of them have in common."""
        return self.runs[0].metrics

    def mean(self, name: str) -> float | None:
        """The mean of a metric over the runs, None where it is undefined."""
        values = self._values(name)
        return statistics.fmean(values) if values else None

    def deviation(self, name: str) -> float | None:
        """The sample standard deviation of a metric, None for fewer than two runs."""
        values = self._values(name)
        return statistics.stdev(values) if len(values) > 1 else None

    def _values(self, name: str) -> list[float]:
        return [run.metrics[name] for run in self.runs if run.metrics.get(name) is not None]


def read_runs(directory: Path) -> list[Run]:
    """Read all finished runs below a directory; one whose files are damaged is named on stderr and left out.

    Raises:
        CheckpointError: if there is no finished run that can be read.
    """
    runs = []
    for path in sorted(directory.glob("**/metrics.json")):
        try:
            runs.append(_read_run(path.parent))
        except CheckpointError as error:
            print(f"skipped: {one_line(error)}", file=sys.stderr)
    if not runs:
        raise CheckpointError(f"{directory}: contains no finished runs that can be read; train some first.")
    return runs


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs by all but their seed, best test accuracy first."""
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.label, *(run.metrics[name] for name in ("data", "model", "epochs"))].append(run)
    found = [Group(label, tuple(members)) for (label, *_), members in groups.items()]
    return sorted(found, key=lambda group: -(group.mean("test/acc") or 0.0))


def _read_run(directory: Path) -> Run:
    metrics, path = read_metrics(directory / "metrics.json"), directory / "metrics.csv"
    try:
        history = _columns(read_text(path, 32_000_000))
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path}: cannot be read ({reason}); remove or repeat the run.") from error
    words = read_yaml(path := directory / ".hydra" / "overrides.yaml") or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise CheckpointError(f"{path}: a list of words expected; remove or repeat the run.")
    return Run(metrics or {}, history, sorted(one_line(word) for word in words))


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
    return columns
