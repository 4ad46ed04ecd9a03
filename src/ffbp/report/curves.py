"""Curves of a group over its training: means and deviations over its runs."""

import re
from collections.abc import Sequence
from itertools import accumulate, zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffbp.report.runs import Group

Numbers = NDArray[np.float64]

LAYERS = re.compile(r"([a-z_]+)/layer_(\d{1,3})(?:/([a-z_]+))?")  # ff/layer_0/separation, alignment/layer_0
QUANTITIES = ("val/acc", "train/acc", "val/loss", "train/loss")
MOST_POINTS, MOST_LAYER_CURVES = 250, 64


class Curve(NamedTuple):
    """A quantity over the epochs in which it was measured, shapes (points,)."""

    epochs: Numbers  # from 1
    seconds: Numbers  # of training so far, mean over the runs that measured it
    mean: Numbers
    deviation: Numbers  # of a sample; 0 for a single run


def curve(group: Group, name: str) -> Curve | None:
    """A quantity of a group, None where it was not measured."""
    histories = [run.history for run in group.runs if name in run.history]
    if not histories:
        return None
    mean, deviation = mean_and_deviation(side_by_side([history[name] for history in histories]))
    times = [list(accumulate(history["time/epoch_seconds"])) for history in histories]
    seconds, _ = mean_and_deviation(side_by_side(times))
    measured = np.isfinite(mean)
    epochs = np.arange(1.0, 1 + len(mean))
    return Curve(*(values[measured] for values in (epochs, seconds, mean, deviation))) if measured.any() else None


def side_by_side(histories: Sequence[Sequence[float]]) -> Numbers:
    """Histories of different lengths as a table of shape (epochs, runs), filled up with NaN."""
    return np.array(list(zip_longest(*histories, fillvalue=np.nan)), dtype=float)


def mean_and_deviation(table: Numbers) -> tuple[Numbers, Numbers]:
    """Mean and sample deviation over the runs of a table (epochs, runs), NaN left out; shapes (epochs,)."""
    count = np.isfinite(table).sum(1)  # (epochs,)
    mean = np.where(count, np.nansum(table, 1) / np.maximum(count, 1), np.nan)
    squares = np.nansum((table - mean[:, None]) ** 2, 1)
    return mean, np.sqrt(squares / np.maximum(count - 1, 1))


def seconds_to(group: Group, accuracy: float) -> float | None:
    """Seconds of training until the mean validation accuracy first reaches a value; None if it never does."""
    found = curve(group, "val/acc")
    if found is None or not (found.mean >= accuracy).any():
        return None
    return float(found.seconds[np.argmax(found.mean >= accuracy)])


def for_page(group: Group) -> dict[str, Any]:
    """The curves that the page draws, as plain numbers: loss, accuracy, and what is measured of each layer."""
    found = {name: curve(group, name) for name in QUANTITIES}
    columns = dict.fromkeys(name for run in group.runs for name in run.history)
    layers = []
    for match in [match for name in columns if (match := LAYERS.fullmatch(name))][:MOST_LAYER_CURVES]:
        if part := curve(group, match[0]):
            measure = f"{match[1]} {match[3] or ''}".replace("_", " ").strip()
            layers.append({"layer": int(match[2]), "measure": measure, **_numbers(part)})
    return {"curves": {name: _numbers(part) for name, part in found.items() if part}, "layers": layers}


def _numbers(found: Curve) -> dict[str, list[float]]:
    """A curve with at most `MOST_POINTS` points, denser at the start, in five digits."""
    count = len(found.mean)
    kept = np.arange(count)
    if count > MOST_POINTS:
        kept = np.unique(np.geomspace(1, count, MOST_POINTS).round().astype(int)) - 1
    named = {"epochs": found.epochs, "seconds": found.seconds, "mean": found.mean, "deviation": found.deviation}
    return {name: [float(f"{value:.5g}") for value in values[kept]] for name, values in named.items()}
