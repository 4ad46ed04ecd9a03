"""The comparison as tables: for the page, for the terminal, and as CSV files."""

import csv
import io
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from ffbp.report.differences import differing, shown
from ffbp.report.runs import Group
from ffbp.report.sentences import percent

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a text in a CSV file begins with that a spreadsheet takes for a formula."""


class Cell(NamedTuple):
    """A number as it is shown, and as it is sorted by; a dash and None where it is undefined."""

    text: str
    value: float | None


def row(group: Group, readouts: Sequence[str] = ("goodness", "softmax")) -> dict[str, str]:
    """A group as a line of the table: strings, a dash for what is undefined; by each of `readouts`, its accuracy."""
    return {"label": group.label, "model": group.first["model"]} | {
        name: cell.text for name, cell in cells(group, readouts).items()
    }


def cells(group: Group, readouts: Sequence[str]) -> dict[str, Cell]:
    """The figures of a group, by the names of the columns."""
    seconds, epochs = group.mean("time/train_seconds") or 0.0, group.mean("epochs") or 0.0
    shares = {"accuracy": "test/acc", **{name: f"test/acc_{name}" for name in readouts}, "validation": "val/acc"}
    seeds = len(group.seeds)
    return {
        **{name: Cell(percent(group, metric), group.mean(metric)) for name, metric in shares.items()},
        "epochs": Cell(f"{epochs:g}" if epochs.is_integer() else f"{epochs:.1f}", epochs),
        "seconds": Cell(f"{seconds:.1f}", seconds),
        "epoch_seconds": Cell(short(seconds / max(1, epochs)), seconds / max(1, epochs)),
        "step_memory": _figure(group, "memory/step_mib"),
        "train_macs": _figure(group, "work/train_macs", 1e6),
        "answer_macs": _figure(group, "work/answer_macs", 1e6),
        "parameters": Cell(f"{group.first['parameters']:,}", group.first["parameters"]),
        "seeds": Cell(f"{seeds}" if seeds == len(group.runs) else f"{seeds} ({len(group.runs)} runs)", seeds),
    }


COLUMNS = {
    "validation": "validation, %",
    "seeds": "seeds",
    "epochs": "epochs",
    "seconds": "training, s",
    "epoch_seconds": "an epoch, s",
    "parameters": "parameters",
    "step_memory": "step, MiB",
    "train_macs": "mult-adds, M",
    "answer_macs": "to answer, M",
}


def columns(groups: Sequence[Group], readouts: Sequence[str]) -> dict[str, str]:
    """Names and titles of the columns in which any of the groups has something."""
    by_readout = {name: f"by {name}, %" for name in readouts}
    titles = {"accuracy": "test, %", **by_readout} | COLUMNS
    found = [cells(group, readouts) for group in groups]
    return {name: title for name, title in titles.items() if any(line[name].value is not None for line in found)}


def readouts_of(groups: Sequence[Group]) -> list[str]:
    """The read-outs by which any of the groups was tested, besides the one that counts."""
    metrics = {metric for group in groups for run in group.runs for metric in run.metrics}
    return sorted(metric.removeprefix("test/acc_") for metric in metrics if metric.startswith("test/acc_"))


def terminal_table(groups: Sequence[Group]) -> RenderableType:
    """The most important columns, with a table for each data set."""
    titles = ("test, %", "train, s", "step, MiB", "mult-adds, M", "parameters", "epochs", "seeds")
    names = ("accuracy", "seconds", "step_memory", "train_macs", "parameters", "epochs", "seeds")
    tables: list[RenderableType] = []
    for data in dict.fromkeys(group.first["data"] for group in groups):
        table = Table(Column(Text(data), overflow="fold"), box=None, header_style="bold", pad_edge=False)
        for title in titles:
            table.add_column(title, justify="right")
        for group in groups:
            if group.first["data"] == data:
                found = row(group)
                table.add_row(Text(group.label), *(found[name] for name in names))
        tables += [Text(), table] if tables else [table]
    return Lines(*tables)


def groups_csv(groups: Sequence[Group]) -> str:
    """A line for each group: means and sample deviations of all that was measured, and the settings that differ."""
    names = _numbers(groups)
    settings = differing([group.runs[0].effective for group in groups])
    head = ["data", "label", "seeds", *(part for name in names for part in (name, f"{name} deviation")), *settings]
    lines = []
    for group in groups:
        measured = [part for name in names for part in (group.mean(name), group.deviation(name))]
        kept = group.runs[0].effective
        words = [shown(kept[name]) if name in kept else "" for name in settings]
        lines.append([group.first["data"], group.label, len(group.seeds), *measured, *words])
    return _csv([head, *lines])


def runs_csv(groups: Sequence[Group]) -> str:
    """A line for each run: where it lies, what was measured, and the settings that differ."""
    metrics = list(dict.fromkeys(name for group in groups for run in group.runs for name in run.metrics))
    settings = differing([group.runs[0].effective for group in groups])
    lines = []
    for group in groups:
        for run in group.runs:
            words = [shown(run.effective[name]) if name in run.effective else "" for name in settings]
            lines.append([run.directory, group.label, *(run.metrics.get(name) for name in metrics), *words])
    return _csv([["directory", "label", *metrics, *settings], *lines])


def short(value: float | None, unit: float = 1.0) -> str:
    """A number in multiples of `unit`, to three digits; a dash for None."""
    if value is None:
        return "-"
    decimals = 2 - math.floor(math.log10(value / unit)) if value / unit else 0
    return f"{value / unit:,.{min(max(decimals, 0), 4)}f}"


def _figure(group: Group, name: str, unit: float = 1.0) -> Cell:
    value = group.mean(name)
    return Cell(short(value, unit), value)


def _numbers(groups: Sequence[Group]) -> list[str]:
    """The metrics that are numbers in all runs that have them."""
    found: dict[str, bool] = {}
    for run in (run for group in groups for run in group.runs):
        for name, value in run.metrics.items():
            found[name] = found.get(name, True) and isinstance(value, int | float | None)
    return [name for name, numbers in found.items() if numbers and name != "seed"]


def _csv(lines: Sequence[Sequence[Any]]) -> str:
    """A CSV file. A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for line in lines:
        writer.writerow([f"'{part}" if isinstance(part, str) and part.startswith(FORMULA) else part for part in line])
    return text.getvalue()
