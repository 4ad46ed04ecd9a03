"""Finished runs, read from disk and grouped by everything but their seed."""

import csv
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ffbp.errors import CheckpointError

# overrides that metrics.json already reports, or that do not affect the result
SILENT = ("seed=", "algo=", "model=", "data=", "trainer.max_epochs=", "experiment=", "hydra.", "paths.", "callbacks=")
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
    """Read all finished runs below a directory; a CheckpointError if there are none, or a file of one is damaged."""
    runs = [_read_run(path.parent) for path in sorted(directory.glob("**/metrics.json"))]
    if not runs:
        raise CheckpointError(f"{directory}: contains no finished runs; train some first.")
    return runs


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """Group runs by all but their seed, best test accuracy first."""
    groups: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.label, *(run.metrics[name] for name in ("data", "model", "epochs"))].append(run)
    found = [Group(label, tuple(members)) for (label, *_), members in groups.items()]
    return sorted(found, key=lambda group: -(group.mean("test/acc") or 0.0))


def _read_run(directory: Path) -> Run:
    try:
        metrics = json.loads((directory / "metrics.json").read_text())
        with (directory / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        history = {name: [float(row[name] or "nan") for row in rows] for name in (rows[0] if rows else [])}
        overrides = OmegaConf.to_container(OmegaConf.load(directory / ".hydra" / "overrides.yaml"))
        return Run(metrics, history, sorted(str(word) for word in overrides or []))
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{directory}: its files cannot be read ({error}); remove or repeat the run.") from error
