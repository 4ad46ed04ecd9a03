"""Runs as tables of pandas, for notebooks: the epochs of one run, and all runs below a directory."""

import math
import re
import warnings
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped]

from ffbp.errors import CheckpointError, one_line
from ffbp.lifecycle.directory import RunDirectory, nearby_runs
from ffbp.lifecycle.saved import read_kept
from ffbp.lifecycle.upgrades import upgrade_settings
from ffbp.report.differences import Flat, differing, shown
from ffbp.report.runs import Run, Unfinished, find_runs, read_history

OWN_COLUMNS = re.compile(r"(algo|model|data)\.(_target_|name|source)|epochs")
"""Settings that are not repeated, since a run's algo, model, data and epochs say them."""


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

    Warns:
        UserWarning: for each run that is left out since its files are damaged.
    """
    directory = Path(directory)
    found, damaged = find_runs(directory), []
    states = {one.directory: one.state for one in found.unfinished}
    runs = list(found.runs)
    for one in found.unfinished:
        if not any(run.directory == one.directory for run in found.runs):
            try:
                runs.append(_begun(directory / one.directory, one))
            except CheckpointError as error:
                damaged.append(one_line(error))
    for line in (*found.damaged, *damaged):
        warnings.warn(f"left out: {line}", stacklevel=2)
    settings = [_without_own_columns(run.effective) for run in runs]
    names = differing(settings)
    rows = [
        _row(run, directory / run.directory, states.get(run.directory, "finished"))
        | {name: _cell(own.get(name)) for name in names}
        for run, own in zip(runs, settings, strict=True)
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS, *names])
    return table.sort_values("started", kind="stable", ignore_index=True)


COLUMNS = ("path", "started", "state", "algo", "model", "data", "seed", "epochs", "val/acc", "test/acc", "seconds")


def _begun(path: Path, unfinished: Unfinished) -> Run:
    """What is known of a run that is not finished, by its settings and its epochs so far."""
    config, rows = RunDirectory(path).config, RunDirectory(path).rows
    settings = upgrade_settings(read_kept(config))
    history = read_history(rows) if rows.exists() else {}
    reached = [value for value in history.get("val/acc", []) if not math.isnan(value)]
    data, seed = settings["data"], settings.get("seed")
    metrics = {
        "algo": one_line(settings["algo"].get("name")),
        "model": one_line(settings["model"].get("name")),
        "data": one_line(data.get("name") or data.get("source")),
        "seed": seed if isinstance(seed, int) else None,
        "epochs": len(history.get("epoch", [])),
        "val/acc": max(reached, default=None),
        "time/train_seconds": sum(history.get("time/epoch_seconds", [])),
    }
    return Run(metrics, history, [], settings, unfinished.directory)


def _row(run: Run, path: Path, state: str) -> dict[str, Any]:
    own = {name: run.metrics.get(name) for name in ("algo", "model", "data", "seed", "epochs", "val/acc", "test/acc")}
    files = (RunDirectory(path).config, RunDirectory(path).metrics)
    begun = next(file.stat().st_mtime for file in files if file.exists())
    started = datetime.fromtimestamp(begun)
    return {"path": str(path), "started": started, "state": state, **own, "seconds": run.metrics["time/train_seconds"]}


def _without_own_columns(settings: Flat) -> Flat:
    return {name: value for name, value in settings.items() if not OWN_COLUMNS.fullmatch(name)}


def _cell(value: Any) -> Any:
    """A setting as a number or a short text."""
    return shown(value) if isinstance(value, str | list) else value
