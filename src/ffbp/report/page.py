"""The comparison as one self-contained HTML page, and as a table for the terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from rich.table import Table

from ffbp.files import write_text
from ffbp.report.figures import draw
from ffbp.report.runs import Group, group_runs, read_runs

# accuracy in %, seconds and epochs as the compared paper gives them, on hardware of its own
PAPER = (
    {"label": "the paper: backprop, CNN", "accuracy": "over 98", "seconds": "323.5", "epochs": "5"},
    {"label": "the paper: Forward-Forward, 784-128-10", "accuracy": "about 79", "seconds": "134.5", "epochs": "100"},
)


def write_report(directory: Path) -> list[Group]:
    """Compare all finished runs below a directory, in <directory>/compare.

    Returns:
        the runs in groups, best first.

    Raises:
        CheckpointError: if there are none.
    """
    groups = group_runs(read_runs(directory))
    folder = directory / "compare"
    folder.mkdir(exist_ok=True)
    sets = []
    for data in dict.fromkeys(group.first["data"] for group in groups):
        members = [group for group in groups if group.first["data"] == data]
        for quantity in ("loss", "acc"):
            for suffix in ("svg", "png"):
                draw(members, quantity, folder / f"{data}_{quantity}.{suffix}")
        sets.append(
            {
                "data": data,
                "rows": [row(group) for group in members],
                "paper": PAPER if data == "mnist" else (),
                "conclusions": conclusions(members),
                "loss": Markup(_svg(folder / f"{data}_loss.svg")),
                "accuracy": Markup(_svg(folder / f"{data}_acc.svg")),
            }
        )
    template = Environment(loader=PackageLoader("ffbp.report", "."), autoescape=True, trim_blocks=True)
    first = groups[0].first
    about = f"torch {first['torch']}, lightning {first['lightning']}, {first['device']}, threads: {first['threads']}"
    write_text(folder / "index.html", template.get_template("page.html.j2").render(sets=sets, about=about))
    return groups


def row(group: Group) -> dict[str, str]:
    """A group as a line of the table: strings, a dash for what is undefined."""
    return {
        "label": group.label,
        "model": group.first["model"],
        "accuracy": _percent(group, "test/acc"),
        "goodness": _percent(group, "test/acc_goodness"),
        "softmax": _percent(group, "test/acc_softmax"),
        "validation": _percent(group, "val/acc"),
        "seconds": f"{group.mean('time/train_seconds') or 0:.1f}",
        "parameters": f"{group.first['parameters']:,}",
        "epochs": str(group.first["epochs"]),
        "seeds": str(len(group.runs)),
    }


def conclusions(groups: Sequence[Group]) -> list[str]:
    """What the table says, in sentences; only what its runs support."""
    found = []
    best, fastest = groups[0], min(groups, key=lambda group: group.mean("time/train_seconds") or 0.0)
    if len(groups) > 1:
        found.append(
            f"Best on the test images: {best.label}, {_percent(best, 'test/acc')} %. "
            f"Least time in training: {fastest.label}, {fastest.mean('time/train_seconds'):.1f} s."
        )
    cells = _cells(groups)
    if cells is not None:
        whole, algorithm, network = cells
        found.append(
            f"Backprop on the CNN and Forward-Forward on the MLP lie {whole:.2f} points of accuracy apart: "
            f"{algorithm:.2f} from the algorithm (both on the MLP), {network:.2f} from the network (both by backprop)."
        )
    return found


def terminal_table(groups: Sequence[Group]) -> Table:
    """The table of the page for a terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("run")
    columns = {"accuracy": "test, %", "seconds": "train, s", "parameters": "parameters", "epochs": "epochs"}
    for title in ("data", *columns.values(), "seeds"):
        table.add_column(title, justify="right")
    for group in groups:
        cells = row(group)
        values = [cells[name] for name in columns]
        table.add_row(group.label, group.first["data"], *values, cells["seeds"])
    return table


def _cells(groups: Sequence[Group]) -> tuple[float, float, float] | None:
    """The gap between the paper's two systems and how it divides, in points, if the three cells are there."""
    cells: dict[tuple[str, str], Any] = {}
    for group in groups:
        if group.label in ("backprop, cnn", "backprop, mlp", "Forward-Forward, mlp"):
            cells[group.first["algo"], group.first["model"]] = (group.mean("test/acc"), group.first["epochs"])
    if len(cells) < 3 or len({epochs for _, epochs in cells.values()}) > 1:
        return None
    bp_cnn, bp_mlp, ff_mlp = (100 * cells[key][0] for key in (("bp", "cnn"), ("bp", "mlp"), ("ff", "mlp")))
    return bp_cnn - ff_mlp, bp_mlp - ff_mlp, bp_cnn - bp_mlp


def _percent(group: Group, name: str) -> str:
    mean, deviation = group.mean(name), group.deviation(name)
    if mean is None:
        return "-"
    return f"{100 * mean:.2f}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "")


def _svg(path: Path) -> str:
    """The drawing itself, without the XML declaration that a page must not repeat."""
    text = path.read_text()
    return text[text.index("<svg") :]
