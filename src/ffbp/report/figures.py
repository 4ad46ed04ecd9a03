"""Loss and accuracy on training and validation images, by epoch and by seconds, as in the article's figures 5 and 6."""

import warnings
from collections.abc import Sequence
from itertools import accumulate, cycle, zip_longest
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from ffbp.errors import one_line
from ffbp.report.runs import Group

COLORS = ("#1f5fa8", "#d1495b", "#2a9d8f", "#e9a23b", "#7b5ea7", "#6b7280", "#a05a2c", "#3f7d20")
STYLE = Path(__file__).with_suffix(".mplstyle")


def draw(groups: Sequence[Group], quantity: str, path: Path) -> None:
    """Draw training and validation curves of a quantity, by epoch on the left and by training seconds on the right.

    Args:
        groups: each in a colour of its own; the mean over its runs, and a band of one standard deviation.
        quantity: loss or acc.
        path: .svg or .png.
    """
    with mpl.rc_context(fname=STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font lacks, and labels too long for a legend
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        by_epoch, by_second = figure.subplots(1, 2, sharey=True)
        for group, color in zip(groups, cycle(COLORS), strict=False):
            seconds = np.nanmean(_table([list(accumulate(run.history["time/epoch_seconds"])) for run in group.runs]), 1)
            for axes, x in ((by_epoch, np.arange(1.0, 1 + len(seconds))), (by_second, seconds)):
                _curve(axes, x, group, f"val/{quantity}", color=color, label=_label(group))
                _curve(axes, x, group, f"train/{quantity}", color=color, linestyle=":")
        by_epoch.set(xlabel="epoch", xscale="log")
        by_second.set(xlabel="seconds of training", xscale="log")
        logarithmic = [by_epoch.xaxis, by_second.xaxis]
        if quantity == "loss":
            by_epoch.set(ylabel="cross-entropy of the read-out", yscale="log")
            logarithmic.append(by_epoch.yaxis)
        else:
            by_epoch.set(ylabel="accuracy, %", ylim=(_lower_limit(groups), 100.5))
        for axis in logarithmic:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        handles, labels = by_epoch.get_legend_handles_labels()
        rows = max(1, ceil(len(labels) / 3))  # of at most three labels, as evenly filled as possible
        figure.legend(handles, labels, loc="outside lower center", ncols=ceil(len(labels) / rows), frameon=False)
        by_second.set_title("solid: validation   dotted: training", loc="right", fontsize=9, color="#6b7280")
        figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None, dpi=150)


def _curve(axes: Axes, x: NDArray[np.float64], group: Group, name: str, *, color: str, **style: Any) -> None:
    histories = [run.history[name] for run in group.runs if name in run.history]
    if histories:
        table = _table(histories) * (100 if name.endswith("acc") else 1)
        measured = np.isfinite(table).any(axis=1)  # not every epoch need be validated
        x, table = x[: len(table)][measured], table[measured]
        mean, deviation = np.nanmean(table, axis=1), np.nanstd(table, axis=1)
        marker = "o" if len(x) < 8 else ""
        axes.plot(x, mean, color=color, linewidth=1.8, marker=marker, markersize=3.5, **style)
        axes.fill_between(x, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)


def _label(group: Group) -> str:
    """A name for the legend, which leaves out names that begin with _."""
    return one_line(f" {group.label}" if group.label.startswith("_") else group.label, 100)


def _lower_limit(groups: Sequence[Group]) -> float:
    """A little below the lowest validated accuracy, in %; one below a half is ignored: its head was not trained yet."""
    validated = [run.history.get("val/acc") or run.history["train/acc"] for group in groups for run in group.runs]
    lowest = min((accuracy for run in validated for accuracy in run if accuracy > 0.5), default=0.0)
    return max(0.0, 100 - 1.3 * (100 - 100 * lowest))


def _table(histories: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Histories of different lengths, side by side: shape (epochs, runs), filled up with NaN."""
    return np.array(list(zip_longest(*histories, fillvalue=np.nan)), dtype=float)
