"""Draw how gradients vanish and units die: results/activations.png, from activations.json.

python results/activations.py
"""

import json
from math import log10
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
    1e-6: ("#6b7280", "1e-6, untrained"),
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
    norms = per_layer(runs[activation, 10, 1e-6], "gradients/layer_{}/norm", 0)
    axes.plot(range(1, 11), norms, ":", color=RATES[1e-6][0], marker="o", markersize=3.5, label="10 layers, untrained")
    axes.set(yscale="log")
    axes.yaxis.set_major_formatter(lambda norm, _: f"1e{round(log10(norm))}" if norm < 1 else f"{norm:g}")


def dead(axes: Axes, runs: Runs, activation: str) -> None:
    for rate, (color, name) in RATES.items():
        run = runs[activation, 10, rate]
        shares = [100 * share for share in per_layer(run, "units/layer_{}/dead", -1)]
        style = ":" if rate == 1e-6 else "-"
        label = f"{name}, {100 * run['metrics']['val/acc']:.1f} %"
        axes.plot(range(1, 11), shares, style, color=color, marker="o", markersize=3.5, label=label)
    axes.set(ylim=(-4, 104))


def main() -> None:
    runs = read()
    rows = {
        "Vanishing gradients: norm of each layer's gradient in the first epoch, learning rate 1e-3": gradients,
        "Dying units: % of units whose derivative is next to 0 on every validation image (10 layers, two epochs)": dead,
    }
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(12, 9.2), layout="constrained")
        for (title, draw), part in zip(rows.items(), figure.subfigures(2, 1, hspace=0.04), strict=True):
            part.suptitle(title, fontsize=13, color="#111827", x=0.01, ha="left")
            for axes, activation in zip(part.subplots(1, 3, sharey=True), ACTIVATIONS, strict=True):
                draw(axes, runs, activation)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
                axes.set(xlim=(0.6, 10.4), xlabel="hidden layer, from the image to the answer")
                axes.set_title(activation, fontsize=13, color="#111827")
                below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2, "columnspacing": 1.0}
                said = f"{'layers' if draw is gradients else 'learning rate'}, validation accuracy after two epochs"
                axes.legend(frameon=False, fontsize=8, handlelength=1.6, title=said, title_fontsize=8, **below)
        path = Path(__file__).with_suffix(".png")
        figure.savefig(path, dpi=100)
    print(path)


if __name__ == "__main__":
    main()
