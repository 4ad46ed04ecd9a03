"""Runs as tables of pandas, for notebooks: the epochs of one run, and all runs below a directory."""

import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from ffbp.errors import CheckpointError
from ffbp.lifecycle.directory import RunDirectory, nearby_runs
from ffbp.report.differences import shown
from ffbp.report.runs import read_history
from ffbp.runs import columns
from ffbp.runs import list_runs as runs_below

COLUMNS = ("path", "started", "state", "algo", "model", "data", "seed", "epochs", "val/acc", "test/acc", "seconds")


def history(run: str | Path) -> pd.DataFrame:
    """The metrics.csv of a run, finished or not: a row for each epoch.

    Returns:
        `epoch`, from 0, and `step`, the batches so far, as integers; the rest as floats, NaN where an epoch was not
        validated or a layer did not learn: train/loss, train/acc, val/acc, time/epoch_seconds, ff/layer_0/loss, ...

    Raises:
        CheckpointError: if there is no such run, its first epoch has not ended, or the file is damaged.
    """
    rows = RunDirectory(Path(run)).rows
    if not rows.exists():
        begun = RunDirectory(Path(run)).config.exists()
        reason = " no epoch has ended yet." if begun else f" contains no run.{nearby_runs(Path(run))}"
        raise CheckpointError(f"{run}:{reason}")
    table = pd.DataFrame(read_history(rows))
    whole = [name for name in ("epoch", "step") if name in table and (table[name] % 1 == 0).all()]
    return table.astype(dict.fromkeys(whole, "int64"))


def list_runs(directory: str | Path = "logs") -> pd.DataFrame:
    """All runs below a directory, a row for each, in the order in which they were begun.

    Returns:
        `path`, which `ffbp.load` takes; `started`, when its settings were written; `state`: finished, running,
        interrupted, failed, killed or unknown; `algo`, `model`, `data`, `seed`; `epochs`, so far; `val/acc` of its best
        epoch and `test/acc`, in [0, 1]; `seconds` of training; and each setting in which runs differ that have it, by
        its full name, such as algo.optimizer.lr. What is not known is None or NaN.

    Raises:
        CheckpointError: if there is no run.

    Warns:
        UserWarning: for each run that is left out since its files are damaged.
    """
    runs = runs_below(Path(directory), lambda line: warnings.warn(f"left out: {line}", stacklevel=3))
    names = [name for name in columns(runs) if name not in COLUMNS]
    rows = [
        [
            str(run.path),
            datetime.fromtimestamp(run.started),
            *(_cell(run.value(name)) for name in (*COLUMNS[2:], *names)),
        ]
        for run in runs
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *names])
    return table.sort_values("started", kind="stable", ignore_index=True)


def _cell(value: Any) -> Any:
    """A setting as a number or a short text."""
    return shown(value) if isinstance(value, str | list) else value
