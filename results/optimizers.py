"""Draw every optimizer on one network: results/optimizers.png, from optimizers.json.

python results/optimizers.py
"""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ffbp.report.figures import COLORS, STYLE

RESULTS = Path(__file__).parent
OPTIMIZERS = ("sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw")
VARIANTS = {  # weight decay, batch norm: name and marker
    (False, False): ("plain", "o"),
    (True, False): ("weight decay", "s"),
    (False, True): ("batch norm", "^"),
    (True, True): ("both", "D"),
}


def read() -> dict[tuple[str, bool, bool], dict[float, dict[str, Any]]]:
    """By optimizer, weight decay and batch norm: the metrics of the run at each learning rate."""
    found: dict[tuple[str, bool, bool], dict[float, dict[str, Any]]] = {}
    for run in json.loads((RESULTS / "optimizers.json").read_text())["runs"]:
        words = " ".join(run["overrides"])
        chosen = dict(re.findall(r"(\w+):([^,}]+)", words))
        key = chosen["name"], "weight_decay" in chosen, "batch_norm=true" in words.lower()
        found.setdefault(key, {})[float(chosen["lr"])] = run["metrics"]
    return dict(found)


def by_rate(axes: Axes, runs: dict[tuple[str, bool, bool], dict[float, dict[str, Any]]]) -> None:
    for name, color in zip(OPTIMIZERS, COLORS, strict=False):
        rates = sorted(runs[name, False, False].items())
        errors = [100 - 100 * metrics["val/acc"] for _, metrics in rates]
        style = "--" if name in ("nesterov", "adamw") else "-"  # which lie on their neighbours
        axes.plot([rate for rate, _ in rates], errors, style, color=color, marker="o", markersize=4.5, label=name)
    axes.set(xscale="log", xlabel="learning rate", ylabel="validation error, %")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_title("Plain: the learning rate decides", loc="left", fontsize=11, color="#111827")
    below = {"ncols": 3, "loc": "upper center", "bbox_to_anchor": (0.5, -0.13)}
    axes.legend(frameon=False, fontsize=9, **below)


def by_variant(axes: Axes, runs: dict[tuple[str, bool, bool], dict[float, dict[str, Any]]]) -> None:
    for row, (name, color) in enumerate(zip(OPTIMIZERS, COLORS, strict=False)):
        for k, (decay, norm) in enumerate(VARIANTS):
            rate, best = max(runs[name, decay, norm].items(), key=lambda item: item[1]["val/acc"])
            place, filled = row + 0.17 * (k - 1.5), color if k == 0 else "white"
            error = 100 - 100 * best["test/acc"]
            marker = VARIANTS[decay, norm][1]
            axes.plot(error, place, marker, color=color, markerfacecolor=filled, markersize=6, linestyle="")
            axes.annotate(f"{rate:g}", (error, place), (7, 0), textcoords="offset points", fontsize=6.5, va="center",
                          color="#6b7280")  # fmt: skip
    axes.set(xlabel="test error, %", ylim=(5.6, -0.6))
    axes.set_yticks(range(len(OPTIMIZERS)), OPTIMIZERS, fontsize=10)
    axes.grid(axis="y", visible=False)
    axes.set_title(
        "Best of three learning rates (small figures), by validation", loc="left", fontsize=11, color="#111827"
    )
    for k, (name, marker) in enumerate(VARIANTS.values()):
        filled = "#374151" if k == 0 else "white"
        axes.plot([], [], marker, color="#374151", markerfacecolor=filled, linestyle="", label=name)
    axes.legend(frameon=False, fontsize=9, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.13))


def main() -> None:
    runs = read()
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        figure.suptitle("MNIST, 784-128-10, two epochs, one seed", fontsize=10, color="#6b7280", x=0.01, ha="left")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        by_rate(left, runs)
        by_variant(right, runs)
        path = Path(__file__).with_suffix(".png")
        figure.savefig(path, dpi=110)
    print(path)


if __name__ == "__main__":
    main()
