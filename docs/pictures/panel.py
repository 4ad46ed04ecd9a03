"""One network on paper: boxes, arrows and tags that look the same in every panel of flows.py."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

FORWARD, SECOND, ERROR, RANDOM, LOCAL, LABEL = "#334155", "#0284c7", "#d9480f", "#7c3aed", "#0f8a5f", "#b7791f"
PALE = {FORWARD: "#f1f5f9", ERROR: "#fff1e6", RANDOM: "#f3eeff", LOCAL: "#e6f6ef", LABEL: "#fdf3d8"}
LOOK = {
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "svg.hashsalt": "ffbp",
    "svg.fonttype": "path",
    "font.size": 8,
}
LEVELS = (0.7, 3.3, 5.9, 8.5)  # the image, two layers, the answer
LEFT, RIGHT, HALF = 1.6, 5.4, 0.55  # of a layer's box
UP, DOWN, FAR = 2.5, 4.5, 7.8  # where arrows run, and where losses stand
NAMES = ("x", "h_1", "h_2", "p")
DASHED = (0, (3, 1.6))


class Panel:
    """One network with what flows in it; coordinates are those of the boxes above."""

    def __init__(self, axes: Axes, title: str, word: str, says: str) -> None:
        self.axes = axes
        axes.set(xlim=(-0.4, 10.4), ylim=(-2.2, 11.5), aspect="equal")
        axes.axis("off")
        frame = FancyBboxPatch(
            (0, -1.9), 10, 13.1, boxstyle="round,pad=0.1,rounding_size=0.5", fc="white", ec="#cbd5e1"
        )
        axes.add_patch(frame)
        self.text(0.35, 10.45, title, size=10, weight="bold", ha="left")
        self.text(9.65, 10.45, word, size=6.5, ha="right", color="#64748b", family="DejaVu Sans Mono")
        self.text(5, -1.1, says, size=7.6, color="#334155", linespacing=1.35)

    def text(self, x: float, y: float, text: str, **look: object) -> None:
        self.axes.text(x, y, text, **({"ha": "center", "va": "center", "zorder": 5} | look))

    def box(self, x: float, y: float, width: float, height: float, color: str) -> None:
        style = "round,pad=0,rounding_size=0.3"
        corner = (x - width / 2, y - height / 2)
        self.axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=PALE[color], ec=color, lw=1))

    def tag(self, x: float, y: float, text: str, color: str, width: float = 2.4) -> None:
        self.box(x, y, width, 0.95, color)
        self.text(x, y, text, size=7.2, color=color)

    def arrow(self, *points: tuple[float, float], color: str, width: float = 1.5, dashed: bool = False) -> None:
        """A line through points, with a head at the last."""
        style = {"color": color, "lw": width, "zorder": 3, "linestyle": DASHED if dashed else "-"}
        if len(points) > 2:
            self.axes.plot(*zip(*points[:-1], strict=True), solid_capstyle="round", solid_joinstyle="round", **style)
        ends = {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 9, "arrowstyle": "-|>"}
        self.axes.add_patch(FancyArrowPatch(points[-2], points[-1], **ends, **style))

    def network(self, *, answer: bool = True, groups: bool = False, labels: tuple[str, ...] = NAMES) -> None:
        """The image, two layers and the answer; with groups, each unit in the colour of its class."""
        for level, (y, name) in enumerate(zip(LEVELS, labels, strict=True)):
            if level == 3 and not answer:
                continue
            self.box((LEFT + RIGHT) / 2, y, RIGHT - LEFT, 2 * HALF, FORWARD)
            self.text(LEFT - 0.55, y, f"${name}$", size=9, color=FORWARD)
            count = (6, 6, 6, 3)[level]
            for k in range(count):
                x = (LEFT + RIGHT) / 2 + (k - (count - 1) / 2) * 0.58
                shade = ("#64748b", "#e2e8f0", "#94a3b8", "#f8fafc", "#cbd5e1", "#475569")[k]
                colour = (ERROR, LABEL, SECOND)[k * 3 // count] if groups and level else "white"
                if level:
                    self.axes.add_patch(Circle((x, y), 0.21, fc=colour, ec=FORWARD, lw=0.8, zorder=4))
                else:
                    self.axes.add_patch(
                        Rectangle((x - 0.22, y - 0.22), 0.44, 0.44, fc=shade, ec=FORWARD, lw=0.6, zorder=4)
                    )

    def up(self, k: int, x: float = UP, *, color: str = FORWARD, cut: bool = False, name: str = "") -> None:
        """From level k to the next; a cut lets no gradient back down."""
        low, high = LEVELS[k] + HALF, LEVELS[k + 1] - HALF
        self.arrow((x, low + 0.06), (x, high - 0.04), color=color)
        if name:
            self.text(x - 0.5, (low + high) / 2, f"${name}$", size=7.2, color=color)
        if cut:
            for shift in (-0.12, 0.12):
                y = (low + high) / 2 + shift - 0.25
                self.axes.plot([x - 0.3, x + 0.3], [y, y], color=LOCAL, lw=1.6, zorder=4)

    def down(self, k: int, name: str, *, fixed: bool = False, x: float = DOWN) -> None:
        """An error from level k + 1 to level k."""
        color = RANDOM if fixed else ERROR
        low, high = LEVELS[k] + HALF, LEVELS[k + 1] - HALF
        self.arrow((x, high - 0.06), (x, low + 0.04), color=color, dashed=fixed)
        self.text(x + 0.25, (low + high) / 2, f"${name}$", size=7.2, color=color, ha="left")

    def sent_to(
        self, k: int, start: tuple[float, float], name: str, *, color: str = RANDOM, dashed: bool = True
    ) -> None:
        """From the far right straight to a layer."""
        y = LEVELS[k]
        self.arrow(start, (start[0], y), (RIGHT + 0.06, y), color=color, dashed=dashed)
        self.text((RIGHT + start[0]) / 2, y + 0.42, f"${name}$", size=7.2, color=color)

    def loss(self, level: int, text: str, *, width: float = 2.3, color: str = LOCAL) -> None:
        """A loss that sees one layer, and moves it alone."""
        y = LEVELS[level]
        self.tag(FAR, y, text, color, width)
        edge = FAR - width / 2
        self.arrow((RIGHT + 0.06, y + 0.22), (edge - 0.02, y + 0.22), color=FORWARD, width=1.1)
        self.arrow((edge - 0.06, y - 0.22), (RIGHT + 0.04, y - 0.22), color=color, width=1.5)

    def head_alone(self, text: str = "CE$(p, y)$") -> None:
        """The read-out learns from its own error, which stops there."""
        self.up(2, cut=True)
        self.loss(3, text)


def save(figure: Figure, path: Path) -> None:
    """Write a figure whose bytes depend on nothing but this file and matplotlib."""
    figure.savefig(path, metadata={"Date": None, "Creator": f"matplotlib {mpl.__version__}"})
