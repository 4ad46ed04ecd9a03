"""Which read-out makes fewer errors on validation images, shifted in nine ways: results/readouts.json.

python results/readouts.py logs/results/hinton_shifts logs/results/conv_ff_labels
"""

import json
import os
import sys
from collections import Counter
from pathlib import Path

import torch

import ffbp
from ffbp.build import build
from ffbp.data.batches import ShiftedImages

NEAR = ((0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))  # pixels down and right
SHIFTS = {reach: (*NEAR, (reach, 0), (-reach, 0), (0, reach), (0, -reach)) for reach in (1, 2)}  # by those in training
PART = 500


@torch.no_grad()
def errors(run: Path) -> list[dict[str, object]]:
    """The validation error of each read-out of a run or a checkpoint, in percent, one row for each shift.

    A rule without read-outs has its `answer`. The run must have been trained with shifts.
    """
    model = ffbp.load(run).eval()
    place = os.environ.get("FFBP_DATA_DIR", "data")
    data = build("data", model.settings["data"] | {"data_dir": place}, seed=0)
    assert data.val is not None
    reach = model.settings["data"]["shift"]
    images, labels = ShiftedImages(data.val.images, reach=reach), data.val.labels
    rows = []
    for shift in SHIFTS[reach]:
        wrong: Counter[str] = Counter()
        for part in torch.split(torch.arange(len(labels)), PART):
            shifted = images.take(part, torch.tensor(shift).expand(len(part), 2))  # (PART, 1, 28, 28)
            with torch.autocast("cpu", torch.bfloat16):
                answers = model.readouts(shifted) or {"answer": model.answer(shifted)}
            for name, logits in answers.items():  # (PART, classes)
                wrong[name] += int((logits.argmax(1) != labels[part]).sum())
        rows.append(
            {"seed": model.settings["seed"], "shift": shift} | {n: 100 * w / len(labels) for n, w in wrong.items()}
        )
    return rows


def main(*sweeps: str) -> None:
    path = Path(__file__).with_suffix(".json")
    content = json.loads(path.read_text()) if path.exists() else {}
    for sweep in map(Path, sweeps):
        rows = [row for run in sorted(sweep.glob("*seed=*")) for row in errors(run)]
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name not in ("seed", "shift")}
        content[sweep.name] = {"command": f"python results/readouts.py {sweep}", "error": means, "rows": rows}
        print(f"{sweep.name}: {means}")
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
