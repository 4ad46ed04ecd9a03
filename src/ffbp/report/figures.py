"""Loss and accuracy on training and validation images, by epoch and by seconds, as in the article's figures 5 and 6."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ffbp.errors import one_line
from ffbp.report.curves import curve
from ffbp.report.runs import Group

COLORS = ("#1f5fa8", "#d1495b", "#2a9d8f", "#e9a23b", "#7b5ea7", "#6b7280", "#a05a2c", "#3f7d20")
LINES = ("-", "--", ":", "-.")  # for groups that share a colour
STYLE = Path(__file__).with_suffix(".mplstyle")
MOST_GROUPS = len(COLORS) * len(LINES)
LONGEST_LABEL = 200


def draw(groups: Sequence[Group], quantity: str, *paths: Path) -> None:
    """Draw curves of a quantity, by epoch on the left and by training seconds on the right.

    Those of the training images are drawn too, dotted, if there are no more groups than colours.

    Args:
        groups: each in a colour of its own, or in a line of its own; the mean over its runs, and a band of one
            standard deviation. Of very many, the first are drawn.
        quantity: loss or acc.
        paths: .svg or .png.
    """
    few, shown = len(groups) <= len(COLORS), groups[:MOST_GROUPS]
    labels = [textwrap.fill(_label(group), 58) for group in shown]
    columns = 3 if len(labels) > 2 and max(map(len, labels)) < 40 else 2
    rows = -(-len(labels) // columns)
    lines = sum(max(label.count("\n") + 1 for label in labels[row::rows]) for row in range(rows))
    with mpl.rc_context(fname=STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that the font lacks, and labels too long for a legend
        figure = Figure(figsize=(10.5, 4.0 + 0.2 * lines), layout="constrained")
        by_epoch, by_second = figure.subplots(1, 2, sharey=True)
        for number, (group, label) in enumerate(zip(shown, labels, strict=True)):
            style = {"color": COLORS[number % len(COLORS)], "linestyle": LINES[number // len(COLORS)]}
            for axes, by_time in ((by_epoch, False), (by_second, True)):
                _curve(axes, group, f"val/{quantity}", by_time, **style, label=label)
                if few:
                    _curve(axes, group, f"train/{quantity}", by_time, **style | {"linestyle": ":"})
        by_epoch.set(xlabel="epoch", xscale="log")
        by_second.set(xlabel="seconds of training", xscale="log")
        logarithmic = [by_epoch.xaxis, by_second.xaxis]
        if quantity == "loss":
            by_epoch.set(ylabel="cross-entropy of the read-out", yscale="log")
            logarithmic.append(by_epoch.yaxis)
        else:
            by_epoch.set(ylabel="accuracy, %", ylim=(_lower_limit(shown), 100.5))
        for axis in logarithmic:
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(NullLocator())
        handles, named = by_epoch.get_legend_handles_labels()
        figure.legend(handles, named, loc="outside lower center", ncols=columns, frameon=False, handlelength=3)
        left_out = "" if len(shown) == len(groups) else f"   the best {len(shown)} of {len(groups)}"
        title = "solid: validation   dotted: in training" if few else f"validation{left_out}"
        title += "   band: ± a standard deviation" if any(len(group.runs) > 1 for group in shown) else ""
        by_second.set_title(title, loc="right", fontsize=9, color="#6b7280")
        for path in paths:
            figure.savefig(path, metadata={"Date": None, "Creator": None} if path.suffix == ".svg" else None, dpi=150)
            figure.set_layout_engine("none")  # once is enough


def _curve(axes: Axes, group: Group, name: str, by_time: bool, *, color: str, **style: Any) -> None:
    if found := curve(group, name):
        x = found.seconds if by_time else found.epochs
        scale = 100 if name.endswith("acc") else 1
        mean, deviation = found.mean * scale, found.deviation * scale
        marker = "o" if len(x) < 8 else ""
        axes.plot(x, mean, color=color, linewidth=1.8, marker=marker, markersize=3.5, **style)
        if len(group.runs) > 1:
            axes.fill_between(x, mean - deviation, mean + deviation, color=color, alpha=0.15, linewidth=0)


def _label(group: Group) -> str:
    """A name for the legend, which leaves out names that begin with _."""
    return one_line(f" {group.label}" if group.label.startswith("_") else group.label, LONGEST_LABEL)


def _lower_limit(groups: Sequence[Group]) -> float:
    """A little below the lowest validated accuracy, in %; one below a half is ignored: its head was not trained yet."""
    validated = [run.history.get("val/acc") or run.history["train/acc"] for group in groups for run in group.runs]
    lowest = min((accuracy for run in validated for accuracy in run if accuracy > 0.5), default=0.0)
    return max(0.0, 100 - 1.3 * (100 - 100 * lowest))
