"""Write the tables and quoted files of the README, docs/speed.md and the pages in results/, and draw the pictures.

python results/tables.py           # write them
python results/tables.py --check   # write nothing; fail if a page differs from the files that it quotes
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from ingredients import ingredients_table
from ledger import TABLES
from ledger_page import draw_curves, draw_ledger, ledger_table
from ledger_times import draw_times, times_table
from omegaconf import OmegaConf
from recorded import prediction_interval
from speed_tables import TABLES as SPEED
from trials import trials_table

from ffbp.report.figures import draw
from ffbp.report.page import row
from ffbp.report.runs import Group, Run, group_runs

RESULTS = Path(__file__).parent
ROOT = RESULTS.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "speed.md",
    RESULTS / "README.md",
    RESULTS / "trials.md",
    RESULTS / "ledger.md",
)

# where a page has a table, or the text of a file of this project
TABLE = re.compile(r"<!-- (\w+): made by results/tables\.py -->\n.*?<!-- end of \1 -->", re.DOTALL)
FILE = re.compile(r"<!-- file: (\S+) -->\n.*?<!-- end of file -->", re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml"}

HEAD = (
    "| {} | test accuracy, % | a new seed, 95 % | by goodness, % | training, s | parameters | epochs |\n"
    "|---|---|---|---|---|---|---|"
)

NAMES = {
    "paper_bp": "**backprop, the article's CNN**, shifts (`paper_bp`)",
    "paper_ff": "**Forward-Forward, 784-128** (`paper_ff`)",
    "paper_ff_all": "the same, on all 60,000 training images",
    "paper_ff_shifts": "**Forward-Forward, 784-128**, shifts (`paper_ff_shifts`)",
    "control_bp": "backprop, 784-128-10, control of `paper_ff`",
    "control_bp_shifts": "backprop, 784-128-10, control of `paper_ff_shifts`",
}
CURVES = {  # in the picture of accuracy
    "paper_bp": "backprop, the article's CNN, shifts",
    "control_bp": "backprop, 784-128-10",
    "control_bp_shifts": "backprop, 784-128-10, shifts",
    "paper_ff": "Forward-Forward, 784-128",
    "paper_ff_shifts": "Forward-Forward, 784-128, shifts",
}
# what is trained, the published error to compare with, and how and by whom that was reached
HINTON = {
    "hinton_supervised": (
        "supervised, no augmentation",
        "1.33",
        "3x1000, 125 epochs, a numpy port of Hinton's Matlab code; Hinton 1.36, 4x2000, 60 epochs",
    ),
    "hinton_shifts": ("supervised, shifts", "0.64", "4x2000, shifts of up to two pixels, 500 epochs, Hinton"),
    "hinton_unsupervised": (
        "unsupervised, hybrids, shifts",
        "1.37",
        "no shifts, 4x2000, softmax on the last three layers, Hinton",
    ),
    "self_contrastive": (
        "unsupervised, blends, no shifts",
        "1.37",
        "4x2000, hybrids, Hinton; with blends and shifts of two pixels 1.3, Chen et al. (arXiv:2409.11593)",
    ),
    "hinton_local": ("unsupervised, local receptive fields", "1.16", "60 epochs, Hinton"),
    "conv_ff": ("convolutional, hybrids, shifts", "0.84", "with labels, see below"),
    "conv_ff_labels": (
        "convolutional, labels, shifts",
        "0.84",
        "3 x 128 maps, 7x7 windows, 200 epochs, Scodellaro et al. (arXiv:2312.14924)",
    ),
}
FASHION = {
    "fashion_paper_bp": ("the article's CNN, shifts",),
    "fashion_ff": ("784-128",),
    "fashion_ff_shifts": ("784-128, shifts",),
    "fashion_hinton_supervised": ("784-1000-1000-1000",),
    "fashion_hinton_shifts": ("784-1000-1000, shifts",),
    "fashion_hinton_unsupervised": ("unsupervised, hybrids, shifts",),
    "fashion_self_contrastive": ("unsupervised, blends",),
    "fashion_hinton_local": ("unsupervised, local receptive fields",),
    "fashion_conv_ff": ("convolutional, hybrids, shifts",),
    "fashion_conv_ff_labels": ("convolutional, labels, shifts",),
    "fashion_groups": ("class groups, three convolutions and a dense layer",),
}
CONTROLS = {  # others have one of their own, of the same name with _bp
    "fashion_paper_bp": "fashion_paper_bp",  # which is backpropagation itself
    "conv_ff_labels": "conv_ff_bp",
    "fashion_ff": "fashion_bp",
    "fashion_ff_shifts": "fashion_bp_shifts",
    "fashion_conv_ff_labels": "fashion_conv_ff_bp",
}
GOODNESS = {"fashion_groups": "last"}  # the read-out by the groups of the last layer
ABLATIONS = {  # the setting across, the setting down
    "ff_negatives": ("algo.objective", "algo.negatives"),
    "ff_threshold": ("algo.threshold", "algo.goodness"),
    "ff_readout": ("algo.readout_layers", None),
    "ff_label": ("algo.label_strength", None),
    "ff_peers": ("algo.peer_normalization", None),
}
PUBLISHED = (
    "| the article: backprop, CNN | over 98 | | | 323.5 | 93,322 | 5 |",
    "| the article: Forward-Forward, 784-128-10 | about 79 | | | 134.5 | 101,770 | 100 |",
)


def read(name: str) -> list[Group]:
    path = RESULTS / f"{name}.json"
    return group_runs([Run(**run) for run in json.loads(path.read_text())["runs"]]) if path.exists() else []


def line(name: str, group: Group) -> str:
    cells = row(group)
    goodness = cells["goodness"].replace("-", "")
    foretold = new_seed(group, "test/acc")
    return " | ".join(
        ["", name, cells["accuracy"], foretold, goodness, cells["seconds"], cells["parameters"], cells["epochs"], ""]
    ).strip()


def new_seed(group: Group, metric: str, *, error: bool = False) -> str:
    """Between which values, in percent, one more seed lies with a probability of 95 %; empty for a single run."""
    low, high = prediction_interval([1 - value if error else value for value in group.values(metric)])
    return f"{100 * max(low, 0):.2f} to {100 * min(high, 1):.2f}" if low > -math.inf else ""


def paper_table() -> str:
    groups = {label: read(name) for name, label in NAMES.items()}
    corner = f"MNIST, {seeds_of(found[0] for found in groups.values() if found)}"
    lines = [line(name, found[0]) if found else f"| {name} | not run | | | | | |" for name, found in groups.items()]
    return "\n".join([HEAD.format(corner), *lines, *PUBLISHED])


def seeds_of(groups: Iterable[Group]) -> str:
    """How many seeds the groups have, in words."""
    return " or ".join(str(count) for count in sorted({len(group.runs) for group in groups})) + " seeds"


def cells_table() -> str:
    groups = read("cells")
    corner = f"two epochs, batch 100, {seeds_of(groups)}"
    return "\n".join([HEAD.format(corner), *(line(group.label, group) for group in groups)])


def percent(group: Group | None, metric: str, *, error: bool = False) -> str:
    """A metric of a group in percent, mean and sample deviation; empty where there is none."""
    if group is None or (mean := group.mean(metric)) is None:
        return ""
    deviation = group.deviation(metric)
    spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
    return f"{100 * (1 - mean if error else mean):.2f}{spread}"


def readout_error(group: Group, name: str) -> str:
    """The test error by one read-out, bold if it is the one that the experiment names; empty where there is none."""
    error = percent(group, f"test/acc_{name}", error=True)
    named = all(run.metrics["test/acc"] == run.metrics.get(f"test/acc_{name}") for run in group.runs)
    return f"**{error}**" if named else error


def pairs_table(data: str, rows: Mapping[str, tuple[str, ...]], *more: str) -> str:
    """A line for each experiment that was run: what is trained, the test errors, and what `more` columns quote."""
    errors = (f"{data}, test error, %", "by softmax", "by goodness", "a new seed, 95 %", "epochs", "backprop control")
    columns = (*errors, "seeds, ours and control", *more)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, (what, *quoted) in rows.items():
        names = dict.fromkeys([name, CONTROLS.get(name, f"{name}_bp")])
        groups = [(read(each) or [None])[0] for each in names]
        group, control = groups[0], groups[-1]
        if group is None:
            continue
        cells = [
            f"**{what}**, `{name}`",
            readout_error(group, "softmax"),
            readout_error(group, GOODNESS.get(name, "goodness")),
            new_seed(group, "test/acc", error=True),
            str(group.first["epochs"]),
            percent(control, "test/acc", error=True) or "not run",
            " and ".join(str(len(found.runs)) for found in groups if found),
            *quoted,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ablation_table(name: str, across: str, down: str | None) -> str:
    """Validation accuracy of a sweep: a setting across; another, and the two read-outs, down; in the sweep's order."""
    cells: dict[tuple[str | None, str | None], Group] = {}
    for group in read(name):
        words = dict(word.split("=", 1) for word in group.runs[0].overrides)
        cells[words.get(down or ""), words.get(across)] = group
    if not cells:
        return f"`{name}`: not run"
    swept = OmegaConf.load(ROOT / "conf" / "sweep" / f"{name}.yaml").hydra.sweeper.params
    columns, rows = str(swept[across]).split(","), str(swept[down]).split(",") if down else [None]
    corner = f"`{across}`; {seeds_of(cells.values())}"
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row_name in rows:
        for readout in ("goodness", "softmax"):
            found = [cells.get((row_name, column)) for column in columns]
            texts = [percent(group, f"val/acc_{readout}") if group else "not run" for group in found]
            lines.append(f"| {f'{row_name}, ' if row_name else ''}{readout} | {' | '.join(texts)} |")
    return "\n".join(lines)


def filled(text: str, tables: Mapping[str, str]) -> str:
    """A page with each table, and each quoted file that exists, between its two markers."""

    def table(place: re.Match[str]) -> str:
        name = place[1]
        return f"<!-- {name}: made by results/tables.py -->\n{tables[name]}\n<!-- end of {name} -->"

    def file(place: re.Match[str]) -> str:
        path = ROOT / place[1]
        if not path.exists():
            return place[0]
        block = f"```{LANGUAGES[path.suffix]}\n{path.read_text()}```"
        return f"<!-- file: {place[1]} -->\n{block}\n<!-- end of file -->"

    return FILE.sub(file, TABLE.sub(table, text))


def main() -> None:
    published = ("published", "set-up and source of the published figure")
    tables = {"paper": paper_table(), "cells": cells_table(), "trials": trials_table()}
    tables |= {"hinton": pairs_table("MNIST", HINTON, *published), "fashion": pairs_table("Fashion-MNIST", FASHION)}
    tables["ingredients"] = ingredients_table()
    tables |= {name: make() for name, make in SPEED.items()}
    tables |= {name: ablation_table(name, *axes) for name, axes in ABLATIONS.items()}
    tables |= {f"ledger_{table}": ledger_table(table) for table in TABLES}
    tables |= {f"times_{table}": times_table(table) for table in ("mnist_mlp", "mnist_cnn")}
    before = {page: page.read_text() for page in PAGES}
    places = [name for text in before.values() for name in TABLE.findall(text)]
    if sorted(places) != sorted(tables):
        sys.exit(f"every table needs one place: the pages have {sorted(places)}, the tables are {sorted(tables)}")
    after = {page: filled(text, tables) for page, text in before.items()}
    if "--check" in sys.argv:
        old = [str(page.relative_to(ROOT)) for page in PAGES if after[page] != before[page]]
        sys.exit(f"{' and '.join(old)}: differs from the files it quotes; run python results/tables.py" if old else 0)
    for page, text in after.items():
        page.write_text(text)
    shown = [Group(label, group.runs) for name, label in CURVES.items() for group in read(name)]
    draw(shown, "acc", RESULTS / "accuracy.png")
    draw(shown, "loss", RESULTS / "loss.png")
    draw_ledger(RESULTS / "ledger.png")
    draw_curves(RESULTS / "ledger_curves.png")
    draw_times(RESULTS / "ledger_times.png")


if __name__ == "__main__":
    main()
