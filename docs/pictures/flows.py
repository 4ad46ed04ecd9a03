"""Draw what flows where under each learning rule: python docs/pictures/flows.py

It writes flows.svg (all rules) and two.svg (backpropagation beside Forward-Forward) into its folder; with a folder as
its argument, into that one. One look means one thing in all panels: see the legend, which is the last of them.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import fill

import matplotlib as mpl
from matplotlib.figure import Figure
from panel import ERROR, FAR, FORWARD, HALF, LABEL, LEVELS, LOCAL, LOOK, RANDOM, RIGHT, SECOND, UP, Panel, save


def weights(p: Panel) -> None:
    """The network, with its weights named."""
    p.network()
    for k in range(3):
        p.up(k, name=f"W_{k + 1}")


def loss_on_top(p: Panel) -> None:
    """The cross-entropy, whose error goes back into the answer."""
    p.tag(FAR, LEVELS[3], "CE$(p, y)$", ERROR, 2.3)
    p.arrow((FAR - 1.15, LEVELS[3]), (RIGHT + 0.06, LEVELS[3]), color=ERROR)


def error_on_top(p: Panel) -> None:
    """The answer's error, which goes elsewhere."""
    p.tag(FAR, LEVELS[3], "$e = p - y$", ERROR, 2.3)
    p.arrow((RIGHT + 0.06, LEVELS[3]), (FAR - 1.15, LEVELS[3]), color=ERROR)


def backprop(p: Panel) -> None:
    """One loss, at the top; its error comes down through the same weights."""
    weights(p)
    loss_on_top(p)
    p.down(2, "W_3^T e_3")
    p.down(1, "W_2^T e_2")


def forward_forward(p: Panel) -> None:
    """Two passes, one loss a layer; nothing comes down."""
    p.network()
    for k in range(2):
        p.up(k, 2.2, cut=bool(k))
        p.up(k, 3.0, color=SECOND, cut=bool(k))
    p.up(2, 2.2, cut=True)
    p.loss(3, "CE$(p, y)$")
    for level in (1, 2):
        p.loss(level, f"$g_{level}^+ > g_{level}^-$", width=2.6)
    for shift, says in ((0.6, "true label: $+$"), (-0.6, "false label: $-$")):
        p.tag(FAR, LEVELS[0] + shift, says, LABEL, 3.0)
        p.arrow((FAR - 1.5, LEVELS[0] + shift), (RIGHT + 0.06, LEVELS[0] + shift / 3), color=LABEL, width=1.1)


def feedback_alignment(p: Panel) -> None:
    """The error comes down, through weights that are drawn once."""
    weights(p)
    loss_on_top(p)
    p.down(2, "B_3\\,e_3", fixed=True)
    p.down(1, "B_2\\,e_2", fixed=True)


def direct_feedback(p: Panel) -> None:
    """The output's error goes straight to every layer."""
    weights(p)
    error_on_top(p)
    p.sent_to(2, (7.3, LEVELS[3] - 0.5), "R_2\\,e")
    p.sent_to(1, (8.4, LEVELS[3] - 0.5), "R_1\\,e")


def random_targets(p: Panel) -> None:
    """The label itself goes to every layer; no error does."""
    weights(p)
    p.loss(3, "CE$(p, y)$")
    p.tag(FAR, LEVELS[0], "label $y$", LABEL, 2.3)
    p.arrow((8.4, LEVELS[0] + 0.5), (8.4, LEVELS[2]), (RIGHT + 0.06, LEVELS[2]), color=RANDOM, dashed=True)
    p.arrow((7.3, LEVELS[0] + 0.5), (7.3, LEVELS[1]), (RIGHT + 0.06, LEVELS[1]), color=RANDOM, dashed=True)
    p.text(6.9, LEVELS[2] + 0.42, "$R_2\\,y$", size=7.2, color=RANDOM)
    p.text(6.4, LEVELS[1] + 0.42, "$R_1\\,y$", size=7.2, color=RANDOM)


def local_losses(p: Panel) -> None:
    """A read-out of its own judges each layer."""
    p.network()
    for k in range(2):
        p.up(k, cut=bool(k))
    p.head_alone()
    for level in (1, 2):
        p.loss(level, f"CE$(D_{level} h_{level}, y)$", width=2.9)


def pepita(p: Panel) -> None:
    """The error is added to the image, which is shown again."""
    p.network()
    for k in range(3):
        p.up(k, 2.2, name=f"W_{k + 1}")
        if k < 2:
            p.up(k, 3.6, color=SECOND)
    p.text(4.05, (LEVELS[1] + LEVELS[2]) / 2, "$h_1'$", size=7.2, color=SECOND)
    p.text(4.05, (LEVELS[0] + LEVELS[1]) / 2, "$x'$", size=7.2, color=SECOND)
    error_on_top(p)
    p.sent_to(0, (8.4, LEVELS[3] - 0.5), "x + F e")
    for level in (1, 2):
        p.tag(7.0, LEVELS[level], f"$h_{level} - h_{level}'$", LOCAL, 1.9)
        p.arrow((6.05, LEVELS[level]), (RIGHT + 0.06, LEVELS[level]), color=LOCAL)


def predictive_coding(p: Panel) -> None:
    """Activities settle between what comes up and what is wanted."""
    p.network(labels=("x", "x_1", "x_2", "p"))
    for k in range(3):
        p.up(k, name=f"W_{k + 1}")
    loss_on_top(p)
    p.down(2, "W_3^T e_3")
    p.down(1, "W_2^T e_2")
    for level, below in ((1, "x"), (2, "x_1")):
        p.loss(level, f"$x_{level} - f(W_{level} {below})$", width=3.2)


def forward_gradient(p: Panel) -> None:
    """Did a random step help? one number tells all layers."""
    p.network()
    for k in range(3):
        p.up(k, 2.2, name=f"W_{k + 1}")
        p.up(k, 3.4, color=RANDOM)
        p.text(3.8, (LEVELS[k] + LEVELS[k + 1]) / 2, "$v$" if not k else "", size=7.2, color=RANDOM)
    p.tag(FAR, LEVELS[3], "$\\nabla L \\cdot v$", ERROR, 2.3)
    p.arrow((RIGHT + 0.06, LEVELS[3]), (FAR - 1.15, LEVELS[3]), color=ERROR)
    for level, x in ((2, 7.3), (1, 8.4)):
        p.sent_to(level, (x, LEVELS[3] - 0.5), f"(\\cdot)\\,v_{level}", color=ERROR, dashed=False)


def class_groups(p: Panel) -> None:
    """Each class owns units; the true class's should be loudest."""
    p.network(groups=True, answer=False)
    for k in range(2):
        p.up(k, cut=bool(k))
    for level in (1, 2):
        p.loss(level, f"CE$(g_{level}, y)$", width=2.5)
    p.arrow((UP, LEVELS[2] + HALF + 0.06), (UP, LEVELS[3] - 0.5), color=FORWARD)
    p.text(3.5, LEVELS[3], "answer: the loudest group", size=7.6, color=FORWARD)


def softhebb(p: Panel) -> None:
    """Units compete for inputs; layers see no label and no error."""
    p.network()
    for k in range(2):
        p.up(k, cut=bool(k))
    p.head_alone()
    for level in (1, 2):
        y = LEVELS[level]
        p.tag(FAR, y, "who wins?", LOCAL, 2.3)
        p.arrow((FAR - 1.15, y), (RIGHT + 0.06, y), color=LOCAL)


def legend(p: Panel) -> None:
    """A weight changes by what reaches its layer, times the layer's input."""
    rows: list[tuple[str, str, bool, str]] = [
        (FORWARD, "forward: what a layer passes on", False, "up"),
        (SECOND, "a second forward pass", False, "up"),
        (ERROR, "an error on its way to a layer", False, "down"),
        (RANDOM, "through fixed random weights", True, "down"),
        (RANDOM, "random directions, carried along", False, "up"),
        (LOCAL, "a loss or contest of one layer", False, "left"),
        (LOCAL, "a cut: no gradient comes back down", False, "cut"),
    ]
    for k, (color, says, dashed, kind) in enumerate(rows):
        y = 9.3 - 1.22 * k
        if kind == "cut":
            p.arrow((1.0, y - 0.4), (1.0, y + 0.45), color=FORWARD)
            for shift in (-0.22, 0.02):
                p.axes.plot([0.7, 1.3], [y + shift] * 2, color=LOCAL, lw=1.6, zorder=4)
        elif kind == "left":
            p.arrow((1.5, y), (0.5, y), color=color)
        else:
            ends = (y - 0.4, y + 0.45) if kind == "up" else (y + 0.4, y - 0.45)
            p.arrow((1.0, ends[0]), (1.0, ends[1]), color=color, dashed=dashed)
        p.text(2.0, y, says, size=7.8, ha="left", color="#334155")
    p.tag(1.2, 9.3 - 1.22 * 7, "$y$", LABEL, 1.2)
    p.text(2.0, 9.3 - 1.22 * 7, "a label that is shown", size=7.8, ha="left", color="#334155")


RULES: dict[str, tuple[str, Callable[[Panel], None]]] = {
    "Backpropagation": ("algo=bp", backprop),
    "Forward-Forward": ("algo=ff", forward_forward),
    "Local losses": ("algo=local_loss", local_losses),
    "Class groups": ("algo=class_groups", class_groups),
    "SoftHebb": ("algo=softhebb", softhebb),
    "PEPITA": ("algo=pepita", pepita),
    "Feedback alignment": ("feedback=fa", feedback_alignment),
    "Direct feedback alignment": ("=dfa", direct_feedback),
    "Direct random targets": ("=drtp", random_targets),
    "Predictive coding": ("algo=predictive_coding", predictive_coding),
    "Forward gradient": ("algo=forward_gradient", forward_gradient),
    "Legend": ("", legend),
}
"""The title of each panel, the word for the command line, and what draws it; its docstring is written below."""


def page(names: list[str], columns: int) -> Figure:
    """A figure with a panel for each of `names`, in rows of `columns`."""
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.3 * columns, 4.2 * rows), facecolor="white")
    figure.subplots_adjust(0.005, 0.005, 0.995, 0.995, wspace=0.02, hspace=0.02)
    for number, name in enumerate(names):
        word, draw = RULES[name]
        panel = Panel(figure.add_subplot(rows, columns, number + 1), name, word, fill(draw.__doc__ or "", 42))
        draw(panel)
    return figure


def figures() -> dict[str, Figure]:
    """The figures by name."""
    two = ["Backpropagation", "Forward-Forward", "Legend"]
    return {"flows": page(list(RULES), columns=3), "two": page(two, columns=3)}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    with mpl.rc_context(LOOK):
        for name, figure in figures().items():
            save(figure, folder / f"{name}.svg")
