"""Draw how gradients vanish and units die: results/activations.png, from activations.json.

python results/activations.py
"""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ffbp.report.figures import STYLE

RESULTS = Path(__file__).parent
ACTIVATIONS = ("sigmoid", "tanh", "relu")
DEPTHS = {2: "#a9cce8", 4: "#6fa8d6", 6: "#3f83bf", 8: "#1f5fa8", 10: "#0b2f5c"}
RATES = {  # color and name
    1e-6: ("#9ca3af", "1e-6, hardly trained"),
    1e-3: ("#2a9d8f", "1e-3, usual"),
    1e-2: ("#e9a23b", "1e-2"),
    1e-1: ("#d1495b", "1e-1"),
}

Runs = dict[tuple[str, int, float], dict[str, Any]]


def read() -> Runs:
    """By activation, number of hidden layers and learning rate."""
    runs = {}
    for run in json.loads((RESULTS / "activations.json").read_text())["runs"]:
        words = dict(word.split("=", 1) for word in run["overrides"])
        depth = len(words["model.widths"].split(","))
        runs[words["model.activation"], depth, float(words["algo.optimizer.lr"])] = run
    return runs


def per_layer(run: dict[str, Any], name: str, epoch: int) -> list[float]:
    """A measure of each hidden layer, first to last."""
    history, k, values = run["history"], 0, []
    while (column := name.format(k)) in history:
        values.append(history[column][epoch])
        k += 1
    return values


def gradients(axes: Axes, runs: Runs, activation: str) -> None:
    for depth, color in DEPTHS.items():
        run = runs[activation, depth, 1e-3]
        norms = per_layer(run, "gradients/layer_{}/norm", 0)
        label = f"{depth} layers, {100 * run['metrics']['val/acc']:.1f} %"
        axes.plot(range(1, 1 + depth), norms, color=color, marker="o", markersize=3.5, linewidth=1.6, label=label)
    axes.set(yscale="log")
    axes.set_title(activation, fontsize=13, color="#111827")
    axes.legend(frameon=False, fontsize=8, title="and validation accuracy", title_fontsize=8)


def dead(axes: Axes, runs: Runs, activation: str) -> None:
    depth = max(DEPTHS)
    for rate, (color, name) in RATES.items():
        run = runs[activation, depth, rate]
        shares = [100 * share for share in per_layer(run, "units/layer_{}/dead", -1)]
        style = ":" if rate == min(RATES) else "-"
        label = f"{name}, {100 * run['metrics']['val/acc']:.1f} %"
        axes.plot(range(1, 1 + depth), shares, style, color=color, marker="o", markersize=3.5, label=label)
    axes.set(ylim=(-4, 104), xlabel="hidden layer, from the image to the answer")
    axes.legend(frameon=False, fontsize=8, title="learning rate, and validation accuracy", title_fontsize=8)


def main() -> None:
    runs = read()
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(12, 7), layout="constrained")
        upper, lower = figure.subplots(2, 3, sharey="row", sharex=True)
        for above, below, activation in zip(upper, lower, ACTIVATIONS, strict=True):
            gradients(above, runs, activation)
            dead(below, runs, activation)
            below.xaxis.set_major_locator(MaxNLocator(integer=True))
        upper[0].set_ylabel("norm of the layer's gradient\n(first epoch, learning rate 1e-3)")
        lower[0].set_ylabel("dead units, %\n(10 layers, after training)")
        path = Path(__file__).with_suffix(".png")
        figure.savefig(path, dpi=110)
    print(path)


if __name__ == "__main__":
    main()
