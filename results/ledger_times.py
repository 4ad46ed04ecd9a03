"""Time to accuracy, from the ledger's runs: the seconds until a rule first reaches a validation accuracy."""

from pathlib import Path
from statistics import median

import matplotlib as mpl
from ledger import ROWS, TABLES
from ledger_page import GREY, TITLES, Runs, read_costs, read_table
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ffbp.report.figures import STYLE

LEVELS = (95, 97, 98, 98.5, 99)
SHADES = ("#c6dbef", "#7db8e0", "#3f8fc9", "#1f5fa8", "#0b2d5a")  # of `LEVELS`


def seconds_to(runs: Runs, level: float, epoch_seconds: float) -> list[float | None]:
    """For each run, the seconds of its epochs up to the first one validated at `level` % or more; None if none was.

    The seconds of an epoch are those measured on an idle machine, not the run's own.
    """
    found = []
    for run in runs:
        reached = [epoch for epoch, accuracy in enumerate(run["history"]["val/acc"], 1) if 100 * accuracy >= level]
        found.append(reached[0] * epoch_seconds if reached else None)
    return found


def rows_with_times(table: str) -> dict[str, dict[float, list[float | None]]]:
    """By row and level, the seconds of each seed; rows whose cost was measured."""
    costs = read_costs(TABLES[table][1])
    return {
        name: {level: seconds_to(runs, level, costs[name]["time/epoch_seconds"]) for level in LEVELS}
        for name, runs in read_table(table).items()
        if name in costs
    }


def times_table(table: str) -> str:
    """A line for each rule: the median of the seeds' seconds to each accuracy, and how many of them reached it."""
    rows = rows_with_times(table)
    if not rows:
        return f"`{table}`: not run"
    lines = [
        f"| rule, seconds to a validation accuracy of | {' | '.join(f'{level} %' for level in LEVELS)} |",
        "|---" * (1 + len(LEVELS)) + "|",
    ]
    for name, levels in rows.items():
        cells = []
        for seconds in levels.values():
            reached = [each for each in seconds if each is not None]
            few = f" ({len(reached)} of {len(seconds)})" if len(reached) < len(seconds) else ""
            cells.append(f"{median(reached):.0f}{few}" if reached else "")
        lines.append(f"| {ROWS[name].title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_times(path: Path) -> None:
    """Draw a line for each rule, with a dot where it reached each accuracy: the median of the seeds that did."""
    tables = {table: rows for table in TABLES if table.startswith("mnist") and (rows := rows_with_times(table))}
    if not tables:
        return
    with mpl.rc_context(fname=STYLE):
        heights = [len(rows) for rows in tables.values()]
        figure = Figure(figsize=(9, 1.5 + 0.3 * sum(heights)), layout="constrained")
        grid = figure.subplots(len(tables), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
        for axes, (table, rows) in zip(grid, tables.items(), strict=True):
            for number, levels in enumerate(rows.values()):
                medians = {
                    level: median(reached)
                    for level, seconds in levels.items()
                    if (reached := [each for each in seconds if each is not None])
                }
                axes.plot(list(medians.values()), [number] * len(medians), color=GREY, linewidth=1, zorder=1)
                for level, seconds in medians.items():
                    shade = SHADES[LEVELS.index(level)]
                    fill = shade if None not in levels[level] else "white"  # hollow where some seeds never get there
                    axes.scatter(seconds, number, color=shade, facecolor=fill, s=45, zorder=2)
            axes.set(yticks=range(len(rows)), ylim=(-0.6, len(rows) - 0.4), title=TITLES[table], xscale="log")
            axes.set_yticklabels([ROWS[name].title for name in rows])
            axes.invert_yaxis()
            axes.xaxis.set_major_formatter("{x:g}")
        hints = "hollow if some never do; of dots that coincide, the highest accuracy shows"
        grid[-1].set(xlabel=f"seconds of training on one thread: median of the seeds that get there,\n{hints}")
        dots = [
            Line2D([], [], marker="o", linestyle="", color=shade, label=f"{level} %")
            for level, shade in zip(LEVELS, SHADES, strict=True)
        ]
        figure.legend(handles=dots, loc="outside upper center", ncols=len(LEVELS), frameon=False)
        figure.savefig(path, dpi=130)


if __name__ == "__main__":
    draw_times(Path(__file__).parent / "ledger_times.png")
    print(times_table("mnist_mlp"))
