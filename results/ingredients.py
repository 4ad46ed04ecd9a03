"""What each ingredient gives to paper_ff: left out of the whole recipe, and added to the bare one.

python results/ingredients.py          # train what is missing, write ingredients.json, draw ingredients.png
python results/ingredients.py draw     # draw only

Each row has a quarter of paper_ff's epochs and two learning rates, that of paper_ff and a third of it, of which the one
with the better validation accuracy of seed 0 is trained with seeds 1 and 2 as well. All rows but that of paper_ff lack
its weight decay, which was found later. All figures are validation accuracies: of choices among settings, the test
images know nothing.
"""

import json
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import matplotlib as mpl
from ledger import ROOT, full_runs, validated
from matplotlib.figure import Figure
from recorded import recorded

from ffbp.report.figures import STYLE

FILE = Path(__file__).with_suffix(".json")
LOGS = ROOT / "logs" / "ingredients"
FIXED = ("experiment=paper_ff", "trainer.max_epochs=25")
RATES = ("0.006", "0.002")
READOUTS = ("softmax", "goodness")
NO_DECAY = "algo.optimizer.name=adam algo.optimizer.weight_decay=0"
INGREDIENTS = {  # what paper_ff has, and what stands in its place where it is missing
    "margin objective": "algo.objective=logistic algo.goodness=sum_square algo.threshold=0.5",
    "hard negatives": "algo.negatives=uniform",
    "dropped pixels": "model.input_dropout=0",
    "cool-down": "algo.schedule=constant",
}
VARIED = {  # settings of the whole recipe at other values
    "label half as bright": "algo.label_strength=0.5",
    "label twice as bright": "algo.label_strength=2",
    "label four times as bright": "algo.label_strength=4",
    "batches of 50": "data.batch_size=50",
    "batches of 200": "data.batch_size=200",
    "batches of 500": "data.batch_size=500",
}


def recipes() -> dict[str, str]:
    """Each row's words beyond experiment=paper_ff."""
    bare = " ".join(INGREDIENTS.values())
    rows = {"without weight decay": "", "none of the four": bare}
    rows |= {f"without {name}": words for name, words in INGREDIENTS.items()}
    rows |= {f"only {name}": " ".join(w for n, w in INGREDIENTS.items() if n != name) for name in INGREDIENTS}
    return {"paper_ff": ""} | {name: f"{NO_DECAY} {words}" for name, words in (rows | VARIED).items()}


def train() -> None:
    found = json.loads(FILE.read_text())["rows"] if FILE.exists() else {}
    for name, said in recipes().items():
        if name in found:
            continue
        place, words = LOGS / name.replace(" ", "_"), [*FIXED, *said.split()]
        tried = {rate: validated(place, [*words, *rates(rate)]) for rate in RATES}
        best = max(tried, key=lambda rate: tried[rate])
        runs = [recorded(run) for run in full_runs(place, [*words, *rates(best)], "0,1,2")]
        found[name] = {"words": said, "lr": best, "val/acc": tried, "runs": runs}
        lines = ",\n".join(f"{json.dumps(row)}: {json.dumps(content)}" for row, content in found.items())
        FILE.write_text(f'{{"command": "python results/ingredients.py", "rows": {{\n{lines}\n}}}}\n')
        print(name, tried, [run["metrics"]["val/acc"] for run in runs], flush=True)


def rates(rate: str) -> list[str]:
    return [f"algo.optimizer.lr={rate}", f"algo.head.lr={rate}"]


def accuracies(row: dict[str, Any], readout: str) -> list[float]:
    return [100 * run["metrics"][f"val/acc_{readout}"] for run in row["runs"]]


def ingredients_table() -> str:
    """The rows as a table, in the order of `recipes`; the whole recipe first."""
    found = json.loads(FILE.read_text())["rows"] if FILE.exists() else {}
    lines = ["| validation accuracy, %; 3 seeds | by softmax | by goodness | learning rate |", "|---|---|---|---|"]
    for name in recipes():
        if name in found:
            cells = [spread(accuracies(found[name], readout)) for readout in READOUTS]
            lines.append(f"| {name} | {' | '.join(cells)} | {found[name]['lr']} |")
        else:
            lines.append(f"| {name} | not run | | |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    return f"{fmean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def draw() -> None:
    """Validation error of each row, one point a seed; results/ingredients.png."""
    found = json.loads(FILE.read_text())["rows"]
    names = [name for name in recipes() if name in found]
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(8, 0.34 * len(names) + 1), layout="constrained")
        axes = figure.subplots()
        for place, name in enumerate(reversed(names)):
            for readout, color, shift in (("softmax", "#1f5fa8", 0.13), ("goodness", "#e9a23b", -0.13)):
                errors = [100 - value for value in accuracies(found[name], readout)]
                label = f"by {readout}" if place == 0 else None
                axes.plot(errors, [place + shift] * len(errors), "o", color=color, markersize=4, alpha=0.7)
                axes.plot(fmean(errors), place + shift, "|", color=color, markersize=11, markeredgewidth=2, label=label)
        axes.axvline(
            100 - fmean(accuracies(found["without weight decay"], "softmax")), color="#9ca3af", linewidth=0.8, zorder=0
        )
        axes.set(xscale="log", xlabel="validation error, %, one point for each seed and a bar at their mean")
        axes.set_yticks(range(len(names)), reversed(names))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, loc="lower right")
        figure.savefig(FILE.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    if sys.argv[1:] != ["draw"]:
        train()
    draw()
