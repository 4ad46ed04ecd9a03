"""Runs below a folder as a list, chosen and sorted by their settings and metrics. It imports no PyTorch."""

import csv
import difflib
import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from ffbp.errors import CheckpointError, ConfigError, one_line
from ffbp.lifecycle.directory import RunDirectory
from ffbp.lifecycle.upgrades import upgrade_settings
from ffbp.plain_text import LARGEST_YAML, PlainLoader, read_text, read_yaml
from ffbp.report.differences import OBSERVERS, SILENT, Flat, differing, flat
from ffbp.report.runs import how_unfinished, run_directories

SHORT = {
    "algo": ("algo.name",),
    "model": ("model.name",),
    "data": ("data.name", "data.source"),
    "seconds": ("time/train_seconds",),
}
"""Shorter names of what a run has under a longer one."""


@dataclass(frozen=True)
class Listed:
    """A run, finished or not.

    Args:
        path: of its directory.
        state: finished, running, killed, failed, interrupted or unknown.
        settings: all of them, in today's form, by their full names.
        metrics: those of metrics.json; of a run that is not finished, its epochs, seconds and best val/acc so far.
        size: of all files in its directory, in bytes.
        started: when its settings were written, in seconds since 1970.
    """

    path: Path
    state: str
    settings: Flat
    metrics: Mapping[str, Any]
    size: int
    started: float

    def value(self, name: str) -> Any:
        """A setting, a metric, `path`, `state` or `size`; None where the run has none of this name."""
        if name in ("path", "state", "size"):
            return str(self.path) if name == "path" else getattr(self, name)
        found = (
            part[each] for each in SHORT.get(name, (name,)) for part in (self.settings, self.metrics) if each in part
        )
        return next(found, None)

    @property
    def names(self) -> set[str]:
        """All that `value` knows."""
        return {*self.settings, *self.metrics, *SHORT, "path", "state", "size"}


def list_runs(folder: Path, leave_out: Callable[[str], None] | None = None) -> list[Listed]:
    """All runs below a folder, by their paths; of one with damaged files, `leave_out` gets a line.

    Without `leave_out`, such runs are named on stderr.

    Raises:
        CheckpointError: if there is none.
    """
    found = []
    for path in run_directories(folder):
        try:
            found.append(_listed(path, path.relative_to(folder).as_posix()))
        except (CheckpointError, OSError) as error:
            if leave_out:
                leave_out(one_line(error))
            else:
                print(f"skipped: {one_line(error)}", file=sys.stderr)
    if not found:
        raise CheckpointError(f"{folder}: contains no runs that can be read; train some first.")
    return found


def choose(runs: Sequence[Listed], wanted: Mapping[str, str]) -> list[Listed]:
    """The runs that have the wanted values: of a setting or metric, a value as on the command line, or several: 1,2.

    Raises:
        ConfigError: if no run has anything of such a name, or a value cannot be read.
    """
    require_known(runs, list(wanted))
    values = {name: _alternatives(name, text) for name, text in wanted.items()}
    return [run for run in runs if all(_key(run.value(name)) in some for name, some in values.items())]


def in_order(runs: Sequence[Listed], name: str) -> list[Listed]:
    """Sort by a setting or metric: accuracies and sizes from the highest, all else from the lowest; -name: reversed.

    Runs that do not have it come last.

    Raises:
        ConfigError: if no run has anything of this name.
    """
    reverse, name = name.startswith("-"), name.removeprefix("-")
    require_known(runs, [name])
    reverse ^= name == "size" or name.rpartition("/")[2].startswith("acc")
    values = [(_order(run.value(name)), number) for number, run in enumerate(runs)]
    have = sorted((value for value in values if runs[value[1]].value(name) is not None), key=lambda value: value[0])
    have = have[::-1] if reverse else have
    return [runs[number] for _, number in have] + [run for run in runs if run.value(name) is None]


def require_known(runs: Sequence[Listed], names: Sequence[str]) -> None:
    """Raise a ConfigError for a name that no run has anything of."""
    known = sorted(set().union(*(run.names for run in runs)))
    for name in names:
        if name not in known:
            ends = [other for other in known if other.endswith(f".{name}") or other.endswith(f"/{name}")]
            near = dict.fromkeys([*ends, *difflib.get_close_matches(name, known, n=3)])
            advice = f" Did you mean {', '.join(list(near)[:4])}?" if near else ""
            raise ConfigError(f"{one_line(name, 100)}: no run has such a setting or metric.{advice}")


def columns(runs: Sequence[Listed]) -> list[str]:
    """The settings in which runs differ, besides places and the like; rule, model and data first, by short names."""
    short = {long: name for name in ("algo", "model", "data") for long in SHORT[name]}
    names = []
    for name in differing([run.settings for run in runs]):
        group, _, key = name.partition(".")
        observes = group == "callbacks" and any(
            OBSERVERS.fullmatch(str(run.settings.get(f"{group}.{key.partition('.')[0]}._target_"))) for run in runs
        )
        named = key == "_target_" and group in SHORT
        if name == "seed" or not (SILENT.fullmatch(name) or observes or named):
            names.append(short.get(name, name))
    return list(dict.fromkeys([*(name for name in SHORT if name in names), *names]))


def _listed(path: Path, name: str) -> Listed:
    directory = RunDirectory(path)
    unfinished = how_unfinished(directory, name)
    settings = _settings(directory.config) if directory.config.exists() else {}
    metrics = (directory.read_metrics() or {}) if unfinished is None else _metrics_so_far(directory.rows)
    started = (directory.config if directory.config.exists() else path).stat().st_mtime
    return Listed(path, unfinished.state if unfinished else "finished", settings, metrics, _size(path), started)


def _size(path: Path) -> int:
    """Of the files in a folder, in bytes; links are not followed."""
    total = 0
    for entry in os.scandir(path):
        total += (
            _size(Path(entry.path))
            if entry.is_dir(follow_symlinks=False)
            else entry.stat(follow_symlinks=False).st_size
        )
    return total


def _metrics_so_far(rows: Path) -> dict[str, Any]:
    """What metrics.csv says of a run that is not finished; no epochs if it is not there or damaged."""
    with suppress(OSError, ValueError, csv.Error):
        found = list(csv.DictReader(io.StringIO(read_text(rows, 32_000_000))))
        accuracies = [float(row["val/acc"]) for row in found if row.get("val/acc")]
        best = {"val/acc": max(accuracies)} if accuracies and all(map(math.isfinite, accuracies)) else {}
        seconds = [float(row["time/epoch_seconds"]) for row in found if row.get("time/epoch_seconds")]
        return {"epochs": len(found), **({"time/train_seconds": sum(seconds)} if seconds else {}), **best}
    return {"epochs": 0}


# -- settings, some thousand files in a second or two


def _settings(path: Path) -> Flat:
    """The settings in a config.yaml, in today's form, by their full names."""
    try:
        settings = _by_parts(read_text(path, LARGEST_YAML))
    except (OSError, ValueError, yaml.YAMLError, TypeError, LookupError):
        settings = read_yaml(path)  # which says what is wrong, or reads what is written in another way
    groups = settings if isinstance(settings, dict) else {}
    if missing := [name for name in ("algo", "model", "data") if not isinstance(groups.get(name), dict)]:
        raise CheckpointError(f"{path}: not the settings of a run of this program, without {', '.join(missing)}.")
    return flat(upgrade_settings(settings))


def _by_parts(text: str) -> dict[str, Any]:
    """Read YAML as runs are written, each group of lines by itself, since most runs have most of them in common.

    Raises:
        ValueError: for YAML that is written in another way.
    """
    settings: dict[str, Any] = {}
    parts = re.split(r"(?m)^(?=[a-z_]+:(?: |$))", text)
    for part in filter(None, parts):
        name = part.partition(":")[0]
        found = _read(part)
        if not isinstance(found, dict) or list(found) != [name] or name in settings:
            raise ValueError("not a group of settings")
        settings[name] = dict(found[name]) if isinstance(found[name], dict) else found[name]  # the rest is only read
    return settings


@lru_cache(2**14)
def _read(text: str) -> Any:
    return yaml.load(text, PlainLoader)


# -- values


def _alternatives(name: str, text: str) -> set[str]:
    """The values that a word asks for: `bp,ff`, `0.01`, `[500,500]`; a text as it stands too, such as 007."""
    try:
        found = yaml.load(f"[{text}]", PlainLoader)
        texts = yaml.load(f"[{text}]", yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise ConfigError(f"{name}={text}: a value, or several with commas between them, expected.") from error
    return {_key(value) for value in (*flat({"": found})[""], *texts, text)}


def _key(value: Any) -> str:
    """Equal for values that are the same; 4 and 4.0 are."""
    return json.dumps(flat({"": value})[""] if not isinstance(value, dict) else str(value))


def _order(value: Any) -> tuple[bool, Any]:
    """What values are sorted by: numbers, then texts."""
    number = isinstance(value, int | float)
    return (not number, value if number else str(value))
