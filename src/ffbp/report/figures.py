"""The paper's figures 5 and 6: loss and accuracy on training and validation images, by epoch and by seconds."""

from collections.abc import Sequence
from itertools import accumulate, zip_longest
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from ffbp.report.runs import Group

COLORS = ("#1f5fa8", "#d1495b", "#2a9d8f", "#e9a23b", "#7b5ea7", "#6b7280", "#a05a2c", "#3f7d20")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9ca3af",
    "axes.labelcolor": "#374151",
    "axes.grid": True,
    "grid.color": "#e5e7eb",
    "xtick.color": "#6b7280",
    "ytick.color": "#6b7280",
    "svg.fonttype": "path",
    "svg.hashsalt": "ffbp",
}


def draw(groups: Sequence[Group], quantity: str, path: Path) -> None:
    """Draw train and validation curves of a quantity, by epoch on the left and by training seconds on the right.

    Args:
        groups: a colour each; the mean over its runs, and a band of one standard deviation.
        quantity: loss or acc.
        path: .svg or .png.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        by_epoch, by_second = figure.subplots(1, 2, sharey=True)
        for group, color in zip(groups, COLORS * len(groups), strict=False):
            epochs = np.arange(1.0, 1 + max(len(run.history["epoch"]) for run in group.runs))
            seconds = np.nanmean(_table([list(accumulate(run.history["time/epoch_seconds"])) for run in group.runs]), 1)
            for axes, x in ((by_epoch, epochs), (by_second, seconds)):
                _curve(axes, x, group, f"val/{quantity}", color, "-", label=group.label)
                _curve(axes, x, group, f"train/{quantity}", color, ":", label=None)
        names = {"loss": "cross-entropy of the read-out", "acc": "accuracy, %"}
        by_epoch.set(xlabel="epoch", ylabel=names[quantity], xscale="log")
        by_second.set(xlabel="seconds of training", xscale="log")
        for axes in (by_epoch, by_second):
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
        if quantity == "loss":
            by_epoch.set_yscale("log")
            by_epoch.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            by_epoch.yaxis.set_major_formatter("{x:g}")
            by_epoch.yaxis.set_minor_locator(NullLocator())
        else:
            by_epoch.set_ylim(_floor(groups), 100.5)  # training starts below: what is validated fills the height
        handles, labels = by_epoch.get_legend_handles_labels()
        rows = max(1, ceil(len(labels) / 3))
        columns = ceil(len(labels) / rows)  # up to three, in rows of one length where that goes
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
        by_second.set_title("solid: validation   dotted: training", loc="right", fontsize=9, color="#6b7280")
        figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None, dpi=150)


def _curve(
    axes: Axes, x: NDArray[np.float64], group: Group, name: str, color: str, line: str, label: str | None
) -> None:
    histories = [run.history[name] for run in group.runs if name in run.history]
    if not histories:
        return
    scale = 100 if name.endswith("acc") else 1
    table = _table(histories) * scale  # (epochs, runs)
    measured = np.isfinite(table).any(axis=1)  # not every epoch need be validated
    x, table = x[: len(table)][measured], table[measured]
    mean, deviation = np.nanmean(table, axis=1), np.nanstd(table, axis=1)
    axes.plot(x, mean, line, color=color, label=label, linewidth=1.8, marker="o" if len(x) < 8 else "", markersize=3.5)
    axes.fill_between(x, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)


def _floor(groups: Sequence[Group]) -> float:
    """A little below the lowest accuracy that was validated, in %; one below a half is that of an untrained head."""
    validated = [run.history.get("val/acc") or run.history["train/acc"] for group in groups for run in group.runs]
    lowest = min((accuracy for run in validated for accuracy in run if accuracy > 0.5), default=0.0)
    return max(0.0, 100 - 1.3 * (100 - 100 * lowest))


def _table(histories: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    return np.array(list(zip_longest(*histories, fillvalue=np.nan)), dtype=float)  # (epochs, runs)
