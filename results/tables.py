"""Write the README's tables and pictures from the files beside this one.

python results/tables.py           # write them
python results/tables.py --check   # fail if the README does not say what the files say
"""

import json
import sys
from pathlib import Path

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
    for name, table in (("paper", paper_table()), ("cells", cells_table()), ("speed", speed_table())):
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
