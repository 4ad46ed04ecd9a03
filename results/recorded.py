"""What is kept of a run in this folder, and what a run with a new seed may come to."""

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from scipy.stats import t

from ffbp.report.runs import Run

KEPT = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "time/epoch_seconds")


def recorded(run: Run, digits: int = 5, kinds: tuple[str, ...] = ()) -> dict[str, Any]:
    """A run as a file has it: metrics, curves in `digits` significant digits, overrides, and all settings but paths.

    Args:
        run: as it was read from its directory.
        digits: significant digits of the curves.
        kinds: prefixes of columns of metrics.csv that are kept beside those of every run.

    Raises:
        SystemExit: for a run of a tree with uncommitted changes, which nobody could repeat.
    """
    revision = run.metrics.get("git") or "none"
    if revision == "none" or revision.endswith("-dirty"):
        sys.exit(f"{run.directory}: its code stands in no commit (git: {revision}); commit, and train it again.")
    kept = asdict(run)
    kept["settings"] = {name: part for name, part in run.settings.items() if name != "paths"}
    kept["history"] = {
        column: [float(f"{value:.{digits}g}") for value in values]
        for column, values in run.history.items()
        if column in KEPT or column.startswith(kinds)
    }
    del kept["directory"]
    return kept


def prediction_interval(values: Sequence[float], share: float = 0.95) -> tuple[float, float]:
    """Where a value from one new seed lies with probability `share`, if values are normal: mean ± t s sqrt(1 + 1/n).

    The interval is about seeds: it leaves out the error of the test set itself, which all seeds share, and which is
    sqrt(p (1 - p) / 10000) for an accuracy p on 10,000 images, 0.1 % at 99 %. (-inf, inf) for fewer than two values.
    """
    count = len(values)
    if count < 2:
        return -math.inf, math.inf
    reach = t.ppf((1 + share) / 2, count - 1) * statistics.stdev(values) * math.sqrt(1 + 1 / count)
    center = statistics.fmean(values)
    return center - reach, center + reach
