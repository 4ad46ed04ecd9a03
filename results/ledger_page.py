"""The ledger's tables and figures, from ledger.json and ledger_tuning.json; tables.py calls what is here."""

import json
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
import numpy as np
from ledger import COSTS, ROWS, RUNS, TABLES
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ffbp.report.figures import STYLE

RESULTS = Path(__file__).parent
CONTROL = "bp"
TITLES = {"mnist_mlp": "MNIST, MLP", "mnist_cnn": "MNIST, CNN with batch norm", "fashion_mlp": "Fashion-MNIST, MLP"}
COLORS = {"mnist_mlp": "#1f5fa8", "mnist_cnn": "#2a9d8f", "fashion_mlp": "#d1495b"}
LAYERS = ("#7db8e0", "#0b3d7a", "#2a9d8f", "#e9a23b", "#d1495b")  # first to last
GREY = "#6b7280"

# test accuracy, %, and on which network; only what was read in the authors' text or code, see the sources in ledger.md
PUBLISHED = {
    "mnist_mlp": {"predsim": "99.38, 3x1024, dropout, shifts", "ff": "98.64, 4x2000, Hinton"},
    "mnist_cnn": {
        "predsim": "99.69, VGG8b",
        "fa": "98.3, LeNet",
        "dfa": "98.4, LeNet",
        "softhebb": "99.4, 96/384/1536 channels",
    },
    "fashion_mlp": {"predsim": "91.46, 3x1024", "fa": "86.9, LeNet", "dfa": "87.2, LeNet"},
}

Runs = Sequence[Mapping[str, Any]]


def read_table(table: str) -> dict[str, Runs]:
    """The runs of each row of a table, best mean test accuracy first; {} where nothing was run."""
    rows = json.loads(RUNS.read_text()).get(table, {}) if RUNS.exists() else {}
    found = {name: content["runs"] for name, content in rows.items()}
    return dict(sorted(found.items(), key=lambda item: -mean(item[1], "test/acc")))


def read_costs(network: str) -> dict[str, dict[str, Any]]:
    """What each row costs on a network, by the names of metrics.json; {} where nothing was measured."""
    found: dict[str, dict[str, Any]] = (json.loads(COSTS.read_text()) if COSTS.exists() else {}).get(network, {})
    return found


def values(runs: Runs, metric: str) -> list[float]:
    return [run["metrics"][metric] for run in runs if run["metrics"].get(metric) is not None]


def mean(runs: Runs, metric: str) -> float:
    found = values(runs, metric)
    return fmean(found) if found else float("nan")


def alignments(runs: Runs) -> list[list[float]]:
    """Each layer's alignment by epoch, first layer first, as means over the seeds; epochs in which it learns."""
    names = sorted({column for run in runs for column in run["history"] if column.startswith("alignment/")})
    means = [[fmean(epoch) for epoch in zip(*(run["history"][name] for run in runs), strict=True)] for name in names]
    return [[mean for mean in layer if np.isfinite(mean)] for layer in means]


def ledger_table(table: str) -> str:
    """A line for each rule: accuracy, published figure, cost and alignment."""
    rows = read_table(table)
    if not rows:
        return f"`{table}`: not run"
    rates = {name: row["lr"] for name, row in json.loads(RUNS.read_text())[table].items()}
    costs = read_costs(TABLES[table][1])
    columns = ("rule", "test accuracy, %", "each seed", "published, %", "learning rate", "s an epoch")
    columns += (
        "MiB a step",
        "million multiply-adds an image, training and answering",
        "alignment, first layer to last",
    )
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, runs in rows.items():
        found = [100 * value for value in values(runs, "test/acc")]
        spread = f" ± {stdev(found):.2f}" if len(found) > 1 else ""
        spent = costs.get(name, {})
        work = [spent[f"work/{what}_macs"] / 1e6 for what in ("train", "answer")] if spent else []
        cells = [
            f"**{ROWS[name].title}**" if name == CONTROL else ROWS[name].title,
            f"{fmean(found):.2f}{spread}",
            ", ".join(f"{value:.2f}" for value in found),
            PUBLISHED[table].get(name, ""),
            rates[name],
            f"{spent['time/epoch_seconds']:.1f}" if spent else "",
            f"{spent['memory/step_mib']:.2f}" if spent else "",
            " and ".join(f"{each:.2f}" for each in work),
            ", ".join(f"{round(layer[-1], 2) + 0.0:.2f}" for layer in alignments(runs)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_ledger(path: Path) -> None:
    """Draw every rule's error on every table beside what it costs: one line of the picture for each rule."""
    tables = {table: rows for table in TABLES if (rows := read_table(table))}
    first = next(iter(tables))
    names = list(tables[first])
    names += [name for rows in tables.values() for name in rows if name not in names]
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(11.5, 1.2 + 0.32 * len(names)), layout="constrained")
        errors, seconds, memory, alignment = figure.subplots(
            1, 4, sharey=True, gridspec_kw={"width_ratios": (3, 1.4, 1.4, 1.8)}
        )
        for table, rows in tables.items():
            if CONTROL in rows:
                errors.axvline(100 * (1 - mean(rows[CONTROL], "test/acc")), color=COLORS[table], linewidth=1, alpha=0.5)
            for name, runs in rows.items():
                x = [100 * (1 - value) for value in values(runs, "test/acc")]
                errors.plot(
                    x,
                    [names.index(name)] * len(x),
                    "o",
                    color=COLORS[table],
                    markersize=5,
                    alpha=0.75,
                    markeredgewidth=0,
                    label=TITLES[table] if name == next(iter(rows)) else None,
                )
        for axes, metric in ((seconds, "time/epoch_seconds"), (memory, "memory/step_mib")):
            costs = read_costs(TABLES[first][1])
            for name in (name for name in tables[first] if name in costs):
                ratio = costs[name][metric] / costs[CONTROL][metric]
                axes.barh(names.index(name), ratio, height=0.55, color=GREY if name == CONTROL else COLORS[first])
                axes.text(ratio, names.index(name), f" {ratio:.1f}", va="center", fontsize=8, color=GREY)
            axes.margins(x=0.25)
            axes.set_axisbelow(True)
        for name, runs in tables[first].items():
            for layer, color in zip(alignments(runs), LAYERS, strict=False):
                alignment.plot(layer[-1], names.index(name), "o", color=color, markersize=6)
        _logarithmic(errors)
        errors.set(xlabel="test error, %; each seed a dot,\nlines: backpropagation", yticks=range(len(names)))
        errors.set_yticklabels([ROWS[name].title for name in names])
        errors.invert_yaxis()
        errors.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
        for axes in (seconds, memory, alignment):
            axes.tick_params(axis="y", length=0)
        seconds.set(xlabel=f"{TITLES[first]}:\ntime of an epoch,\nbackpropagation: 1")
        memory.set(xlabel=f"{TITLES[first]}:\nmemory of a step,\nbackpropagation: 1")
        alignment.set(xlabel=f"{TITLES[first]}: cosine\nwith backpropagation,\nlayer 1 light, layer 2 dark")
        alignment.set(xlim=(-0.25, 1.08))
        alignment.axvline(0, color=GREY, linewidth=0.8)
        figure.savefig(path, dpi=150)


def draw_curves(path: Path) -> None:
    """Draw each rule's validation error and alignment over the training, backpropagation's error behind it."""
    rows = read_table("mnist_mlp")
    if not rows:
        return
    across = 4
    down = -(-len(rows) // across)
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(11, 3 * down), layout="constrained")
        grid = figure.subplots(2 * down, across, sharex=True, squeeze=False, height_ratios=[1.4, 1] * down)
        for place, cell in zip_longest(range(down * across), rows.items()):
            upper, lower = grid[2 * (place // across)][place % across], grid[2 * (place // across) + 1][place % across]
            if cell is None:
                upper.axis("off"), lower.axis("off")
                continue
            name, runs = cell
            shades = {"backpropagation": (rows[CONTROL], "#b6bcc6", 1.5), "the rule": (runs, COLORS["mnist_mlp"], 1.8)}
            for whose, (shown, color, width) in shades.items():
                for run in shown:
                    error = 100 * (1 - np.array(run["history"]["val/acc"]))
                    label = f"error of {whose}, each seed" if run is shown[0] else None
                    epochs = np.arange(1, 1 + len(error))
                    upper.plot(epochs, error, color=color, linewidth=width, alpha=0.7, label=label)
            upper.set_title(ROWS[name].title, fontsize=10)
            upper.set(yscale="log", ylim=(1, 40))
            upper.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            upper.yaxis.set_major_formatter("{x:g}")
            upper.yaxis.set_minor_locator(NullLocator())
            for number, (layer, color) in enumerate(zip(alignments(runs), LAYERS, strict=False)):
                epochs = np.arange(1, 1 + len(layer))
                lower.plot(epochs, layer, color=color, linewidth=1.8, label=f"cosine of layer {number + 1}")
            lower.set(ylim=(-0.15, 1.05))
            if place % across == 0:
                upper.set(ylabel="validation error, %")
                lower.set(ylabel="cosine")
        for axes in grid[-1]:
            axes.set(xlabel="epoch")
        drawn = [grid[number][1].get_legend_handles_labels() for number in (0, 1)]
        handles, labels = (above + below for above, below in zip(*drawn, strict=True))
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, title=TITLES["mnist_mlp"])
        figure.savefig(path, dpi=130)


def _logarithmic(axes: Axes) -> None:
    axes.set(xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
