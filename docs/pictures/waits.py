"""Draw when four layers on four machines work and wait: python docs/pictures/waits.py

It writes waits.svg into its folder, or into the one that its argument names. A multiplication of one batch with a
layer's weights takes one unit of time. A layer under backpropagation needs one forward and two on the way back, for
the error below and for the gradient. Under Forward-Forward it needs two forward, for positives and negatives, and two
for their gradients. What is sent from one machine to the next takes no time here.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from panel import ERROR, FORWARD, LOCAL, LOOK, save

LAYERS = 4
END = 44


class Work(NamedTuple):
    """What a layer does from `start` on, for `length` units of time."""

    layer: int
    batch: int
    start: float
    length: float
    color: str


def backprop(batches: int, pieces: int = 1) -> list[Work]:
    """Batches cut into pieces, which follow each other; the next batch waits until the last error is down."""
    done: list[Work] = []
    start, forward, back = 0.0, 1 / pieces, 2 / pieces
    for batch in range(batches):
        for piece in range(pieces):
            for layer in range(LAYERS):
                done.append(Work(layer, batch, start + (piece + layer) * forward, forward, FORWARD))
        turn = start + (pieces + LAYERS - 1) * forward
        for piece in range(pieces):
            for layer in range(LAYERS):
                done.append(Work(layer, batch, turn + (piece + LAYERS - 1 - layer) * back, back, ERROR))
        start = turn + (pieces + LAYERS - 1) * back
    return done


def forward_forward(batches: int) -> list[Work]:
    """A layer passes a batch on and learns from it; by then the next batch is there."""
    done = []
    for batch in range(batches):
        for layer in range(LAYERS):
            start = 4.0 * batch + 2.0 * layer
            done += [Work(layer, batch, start, 2, FORWARD), Work(layer, batch, start + 2, 2, LOCAL)]
    return done


def idle(done: list[Work]) -> float:
    """The share of the machines' time, from the first work to the last, in which they wait."""
    end = max(work.start + work.length for work in done)
    return 1 - sum(work.length for work in done) / (LAYERS * end)


def learned(done: list[Work]) -> int:
    """From how many batches all layers have learned at the right end of the chart."""
    ends: dict[int, float] = {}
    for work in done:
        ends[work.batch] = max(ends.get(work.batch, 0.0), work.start + work.length)
    return sum(end <= END for end in ends.values())


def draw(axes: Axes, done: list[Work], title: str) -> None:
    """A row for each layer, a box for each piece of work, with the number of its batch."""
    for layer in range(LAYERS):
        axes.add_patch(Rectangle((0, layer - 0.4), END, 0.8, fc="#f1f5f9", ec="none"))
    for work in done:
        look = {"fc": work.color, "ec": "white", "lw": 0.8, "alpha": 0.6 if work.batch % 2 else 1.0}
        axes.add_patch(Rectangle((work.start, work.layer - 0.4), work.length, 0.8, **look))
        if work.length >= 1:
            x, number = work.start + work.length / 2, str(work.batch + 1)
            axes.text(x, work.layer, number, color="white", ha="center", va="center", size=7, clip_on=True)
    axes.set(xlim=(0, END), ylim=(-0.55, LAYERS - 0.45), yticks=range(LAYERS), xticks=range(0, END + 1, 4))
    axes.set_yticklabels([f"layer {layer + 1}" for layer in range(LAYERS)])
    axes.tick_params(length=0, colors=FORWARD, labelsize=8)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", size=10, weight="bold")
    axes.set_title(f"{learned(done)} batches learned", loc="right", size=9, color=FORWARD)


def figures() -> dict[str, Figure]:
    """The chart by name; what it says of waiting is computed."""
    figure = Figure(figsize=(10, 7.8), facecolor="white")
    axes = figure.subplots(3, 1, sharex=True)
    whole, cut = (f"{100 * idle(backprop(1, pieces)):.0f} %" for pieces in (1, LAYERS))
    draw(axes[0], backprop(4), f"Backpropagation: a layer waits for the others, {whole} of the time")
    draw(axes[1], backprop(9, LAYERS), f"Backpropagation, each batch cut into four pieces: {cut} of the time")
    draw(axes[2], forward_forward(12), "Forward-Forward: a layer waits for its first batch, then never again")
    axes[2].set_xlabel("time, in multiplications of a batch with a layer's weights", color=FORWARD, size=9)
    names = {
        "forward": FORWARD,
        "error and gradient, on the way back": ERROR,
        "gradient of the layer's own loss": LOCAL,
    }
    keys = [Rectangle((0, 0), 1, 1, fc=color, label=name) for name, color in names.items()]
    figure.legend(handles=keys, loc="lower center", ncols=3, frameon=False, fontsize=8.5, labelcolor=FORWARD)
    figure.tight_layout(rect=(0, 0.035, 1, 1))
    return {"waits": figure}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    with mpl.rc_context(LOOK):
        save(figures()["waits"], folder / "waits.svg")
