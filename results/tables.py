"""Write the README's tables and pictures from the files beside this one.

python results/tables.py           # write them
python results/tables.py --check   # fail if the README does not say what the files say
"""

import json
import sys
from pathlib import Path

from omegaconf import OmegaConf

from ffbp.report.figures import draw
from ffbp.report.page import row
from ffbp.report.runs import Group, Run, group_runs

RESULTS = Path(__file__).parent
README = RESULTS.parent / "README.md"
HEAD = "| {} | test accuracy, % | by goodness, % | training, s | parameters | epochs |\n|---|---|---|---|---|---|"

NAMES = {
    "paper_bp": "**backprop, the paper's CNN**, shifts",
    "paper_ff": "**Forward-Forward, 784-128**",
    "paper_ff_all": "the same, on all 60,000 training images",
    "paper_ff_shifts": "**Forward-Forward, 784-128**, shifts",
    "control_bp": "backprop, 784-128-10, as `paper_ff`",
    "control_bp_shifts": "backprop, 784-128-10, as `paper_ff_shifts`",
}
# what, the control on the same network, the best published error, and its set-up and source
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
    "hinton_local": ("unsupervised, local receptive fields", "1.16", "60 epochs, Hinton"),
    "conv_ff": (
        "convolutional, shifts",
        "0.84",
        "3 x 128 maps, 7x7 windows, 200 epochs, Scodellaro et al. (arXiv:2312.14924)",
    ),
}
ABLATIONS = {  # the setting across, the setting down
    "ff_negatives": ("algo.objective", "algo.negatives"),
    "ff_threshold": ("algo.threshold", "algo.goodness"),
    "ff_readout": ("algo.readout_layers", None),
    "ff_label": ("algo.label_strength", None),
    "ff_peers": ("algo.peer_normalization", None),
}
PUBLISHED = (
    "| the paper: backprop, CNN | over 98 | | 323.5 | 93,322 | 5 |",
    "| the paper: Forward-Forward, 784-128-10 | about 79 | | 134.5 | 101,770 | 100 |",
)


def read(name: str) -> list[Group]:
    path = RESULTS / f"{name}.json"
    return group_runs([Run(**run) for run in json.loads(path.read_text())["runs"]]) if path.exists() else []


def line(name: str, group: Group) -> str:
    cells = row(group)
    goodness = cells["goodness"].replace("-", "")
    return " | ".join(
        ["", name, cells["accuracy"], goodness, cells["seconds"], cells["parameters"], cells["epochs"], ""]
    ).strip()


def paper_table() -> str:
    groups = {name: read(name) for name in NAMES}
    lines = [
        line(NAMES[name], found[0]) if found else f"| {NAMES[name]} | not run | | | | |"
        for name, found in groups.items()
    ]
    return "\n".join([HEAD.format("MNIST, three seeds"), *lines, *PUBLISHED])


def cells_table() -> str:
    return "\n".join([HEAD.format("two epochs, batch 100"), *(line(group.label, group) for group in read("cells"))])


def percent(group: Group | None, metric: str, *, error: bool = False) -> str:
    """A metric of a group in percent, mean and sample deviation; empty where there is none."""
    if group is None or (mean := group.mean(metric)) is None:
        return ""
    deviation = group.deviation(metric)
    spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
    return f"{100 * (1 - mean if error else mean):.2f}{spread}"


def readout_error(group: Group, name: str) -> str:
    """The test error by one read-out, bold if it is the one that the experiment names."""
    error = percent(group, f"test/acc_{name}", error=True)
    named = all(run.metrics["test/acc"] == run.metrics.get(f"test/acc_{name}") for run in group.runs)
    return f"**{error}**" if named else error


def hinton_table() -> str:
    lines = [
        "| MNIST, test error, % | by softmax | by goodness | epochs | seeds | backprop | published | there |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, (what, published, source) in HINTON.items():
        [group, *_], [control, *_] = read(name) or [None], read(f"{name}_bp") or [None]
        cells = [
            f"**{what}**, `{name}`",
            readout_error(group, "softmax") if group else "not run",
            readout_error(group, "goodness") if group else "",
            str(group.first["epochs"]) if group else "",
            " and ".join(str(len(found.runs)) for found in (group, control) if found),
            percent(control, "test/acc", error=True) or "not run",
            published,
            source,
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
    swept = OmegaConf.load(RESULTS.parent / "conf" / "sweep" / f"{name}.yaml").hydra.sweeper.params
    columns, rows = str(swept[across]).split(","), str(swept[down]).split(",") if down else [None]
    seeds = sorted({len(group.runs) for group in cells.values()})
    corner = f"`{across}`; seeds: {' or '.join(map(str, seeds))}"
    lines = [f"| {corner} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for row_name in rows:
        for readout in ("goodness", "softmax"):
            found = [cells.get((row_name, column)) for column in columns]
            texts = [percent(group, f"val/acc_{readout}") if group else "not run" for group in found]
            lines.append(f"| {f'{row_name}, ' if row_name else ''}{readout} | {' | '.join(texts)} |")
    return "\n".join(lines)


def speed_table() -> str:
    figures = json.loads((RESULTS / "speed.json").read_text())["figures"].values()
    lines = [
        f"| {figure['what']} | {figure['ratio']:.2f} | {figure['least']:.2f} to {figure['most']:.2f} "
        f"| {'at most ' + str(figure['limit']) if figure['limit'] else ''} |"
        for figure in figures
    ]
    return "\n".join(
        ["| one epoch of MNIST, batch 100 | ratio of times | range | wanted |", "|---|---|---|---|", *lines]
    )


def put(text: str, name: str, table: str) -> str:
    """Put a table between its two markers."""
    begin, end = f"<!-- {name}: made by results/tables.py -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{table}\n{end}{after}"


def main() -> None:
    text = README.read_text()
    tables = {"paper": paper_table(), "hinton": hinton_table(), "cells": cells_table(), "speed": speed_table()}
    for name, table in (tables | {name: ablation_table(name, *axes) for name, axes in ABLATIONS.items()}).items():
        text = put(text, name, table)
    if "--check" in sys.argv:
        same = text == README.read_text()
        sys.exit(0 if same else "README.md does not say what results/ says: run python results/tables.py")
    README.write_text(text)
    shown = [group for name in ("paper_bp", "control_bp", "paper_ff", "paper_ff_shifts") for group in read(name)]
    draw(shown, "acc", RESULTS / "accuracy.png")
    draw(shown, "loss", RESULTS / "loss.png")


if __name__ == "__main__":
    main()
