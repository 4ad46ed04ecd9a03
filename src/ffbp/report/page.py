"""The comparison as one self-contained HTML page, and as a table for the terminal."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from pydantic import TypeAdapter
from rich.table import Table
from rich.text import Text

from ffbp.errors import ConfigError
from ffbp.files import write_text, writing
from ffbp.plain_text import read_text
from ffbp.report.figures import draw
from ffbp.report.runs import Group, group_runs, read_runs

LISTING = ".written.json"
"""The names of the files in a compare folder that are ours to replace."""
FIGURES = ("loss.png", "loss.svg", "acc.png", "acc.svg")

# accuracy in %, seconds and epochs as the article gives them, measured on its authors' hardware
ARTICLE = (
    {"label": "the article: backprop, CNN", "accuracy": "over 98", "seconds": "323.5", "epochs": "5"},
    {"label": "the article: Forward-Forward, 784-128-10", "accuracy": "about 79", "seconds": "134.5", "epochs": "100"},
)
# the two combinations that the article compares, with the one between them that tells rule and network apart
CELLS = ("backprop, cnn", "backprop, mlp", "Forward-Forward, mlp")


def write_report(directory: Path) -> list[Group]:
    """Compare all finished runs below a directory, in <directory>/compare; return them in groups, best first.

    Raises:
        CheckpointError: if there are no finished runs.
        ConfigError: if that folder contains files of somebody else that would be written over.
    """
    groups = group_runs(read_runs(directory))
    folder = directory / "compare"
    names = _file_names([group.first["data"] for group in groups])
    _claim(folder, ["index.html", *(figure for figures in names.values() for figure in figures.values())])
    sets = []
    for name, figures in names.items():
        sets.append(_data_set(name, [group for group in groups if group.first["data"] == name], folder, figures))
    first = {"torch": "?", "lightning": "?", "device": "?", "threads": "?"} | groups[0].first
    about = f"torch {first['torch']}, lightning {first['lightning']}, {first['device']}, threads: {first['threads']}"
    template = Environment(loader=PackageLoader("ffbp.report", "."), autoescape=True, trim_blocks=True)
    write_text(folder / "index.html", template.get_template("page.html.j2").render(sets=sets, about=about))
    return groups


def _file_names(data: Sequence[str]) -> dict[str, dict[str, str]]:
    """For each data set, its figures' file names by quantity and type: ("loss.png": "mnist_loss.png").

    The name of a data set may be anything that a metrics.json says, such as ../../x.
    """
    stems: dict[str, str] = {}
    for name in data:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60]
        while name not in stems and stem in stems.values():
            stem += "_"
        stems.setdefault(name, stem)
    return {name: {figure: f"{stem}_{figure}" for figure in FIGURES} for name, stem in stems.items()}


def _claim(folder: Path, names: Sequence[str]) -> None:
    """List the files about to be written; a ConfigError if one is there that an earlier listing does not have."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder}: is no folder of this program; move it away.")
    listing, listed = folder / LISTING, []
    if listing.is_symlink() or listing.exists():
        try:
            listed = TypeAdapter(list[str]).validate_json(read_text(listing, 1_000_000))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{listing}: was not written by compare; move {folder} away.") from error
    for name in names:
        if name not in listed and ((folder / name).is_symlink() or (folder / name).exists()):
            raise ConfigError(f"{folder / name}: was not written by this version of compare; move {folder} away.")
    write_text(listing, json.dumps(sorted({*names, *listed}), indent=2) + "\n")


def _data_set(name: str, groups: Sequence[Group], folder: Path, figures: Mapping[str, str]) -> dict[str, Any]:
    """What the page shows of one data set; its figures are drawn as files too."""
    for figure, file in figures.items():
        with writing(folder / file):
            (folder / file).unlink(missing_ok=True)  # it might be a link that leads elsewhere
            draw(groups, figure.partition(".")[0], folder / file)
    drawings = {}
    for quantity in ("loss", "acc"):
        text = (folder / figures[f"{quantity}.svg"]).read_text(encoding="utf-8")
        drawings[quantity] = Markup(text[text.index("<svg") :])  # without the XML declaration
    metrics = sorted({metric for group in groups for run in group.runs for metric in run.metrics})
    readouts = [metric.removeprefix("test/acc_") for metric in metrics if metric.startswith("test/acc_")]
    shown = {"data": name, "readouts": readouts, "rows": [row(group, readouts) for group in groups]}
    return {**shown, "article": ARTICLE if name == "mnist" else (), "conclusions": conclusions(groups), **drawings}


def row(group: Group, readouts: Sequence[str] = ("goodness", "softmax")) -> dict[str, str]:
    """A group as a line of the table: strings, a dash for what is undefined; by each of `readouts`, its accuracy."""
    return {
        **{name: _percent(group, f"test/acc_{name}") for name in readouts},
        "label": group.label,
        "model": group.first["model"],
        "accuracy": _percent(group, "test/acc"),
        "validation": _percent(group, "val/acc"),
        "seconds": f"{group.mean('time/train_seconds') or 0:.1f}",
        "epoch_seconds": _short((group.mean("time/train_seconds") or 0.0) / max(1, group.first["epochs"])),
        "step_memory": _short(group.mean("memory/step_mib")),
        "train_macs": _short(group.mean("work/train_macs"), 1e6),
        "answer_macs": _short(group.mean("work/answer_macs"), 1e6),
        "parameters": f"{group.first['parameters']:,}",
        "epochs": str(group.first["epochs"]),
        "seeds": str(len(group.runs)),
    }


def conclusions(groups: Sequence[Group]) -> list[str]:
    """What the runs of one data set show, in sentences."""
    found = []
    if len(groups) > 1:
        best, fastest = groups[0], min(groups, key=lambda group: group.mean("time/train_seconds") or 0.0)
        found.append(
            f"Highest test accuracy: {best.label}, {_percent(best, 'test/acc')} %. "
            f"Shortest training: {fastest.label}, {fastest.mean('time/train_seconds'):.1f} s."
        )
    cells = {group.label: group for group in groups if group.label in CELLS}
    if len(cells) == len(CELLS) and len({group.first["epochs"] for group in cells.values()}) == 1:
        bp_cnn, bp_mlp, ff_mlp = (100 * (cells[label].mean("test/acc") or 0.0) for label in CELLS)
        found.append(
            f"Backprop on the CNN and Forward-Forward on the MLP differ by {bp_cnn - ff_mlp:.2f} points of accuracy: "
            f"{bp_mlp - ff_mlp:.2f} from the algorithm (both on the MLP), "
            f"{bp_cnn - bp_mlp:.2f} from the network (both by backprop)."
        )
    return found


def terminal_table(groups: Sequence[Group]) -> Table:
    """The most important columns of the page, for a terminal."""
    table = Table("run", box=None, header_style="bold", pad_edge=False)
    for title in ("data", "test, %", "train, s", "step, MiB", "mult-adds, M", "parameters", "epochs", "seeds"):
        table.add_column(title, justify="right")
    shown = ("accuracy", "seconds", "step_memory", "train_macs", "parameters", "epochs", "seeds")
    for group in groups:
        cells = row(group)
        values = [cells[name] for name in shown]
        table.add_row(Text(group.label), Text(group.first["data"]), *values)
    return table


def _percent(group: Group, name: str) -> str:
    mean, deviation = group.mean(name), group.deviation(name)
    spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
    return "-" if mean is None else f"{100 * mean:.2f}{spread}"


def _short(value: float | None, unit: float = 1.0) -> str:
    """A number in multiples of `unit`, to three digits; a dash for None."""
    if value is None:
        return "-"
    decimals = 2 - math.floor(math.log10(value / unit)) if value else 0
    return f"{value / unit:,.{min(max(decimals, 0), 4)}f}"
