"""Copy what a sweep measured into a file in this folder.

python results/collect.py paper_ff logs/sweeps/paper_ff "python train.py -m experiment=paper_ff seed=0,1,2"
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from ffbp.report.runs import read_runs

KEPT = ("epoch", "train/loss", "train/acc", "val/loss", "val/acc", "time/epoch_seconds")
KINDS = ("gradients/", "units/")  # kept as well, in three significant digits


def main(name: str, directory: str, command: str) -> None:
    runs = []
    for run in read_runs(Path(directory)):
        kept = asdict(run)
        kept["history"] = {
            column: [float(f"{value:.3g}") if column.startswith(KINDS) else round(value, 5) for value in values]
            for column, values in run.history.items()
            if column.startswith(KINDS) or column in KEPT
        }
        runs.append(kept)
    content = {"command": command, "runs": runs}
    path = Path(__file__).parent / f"{name}.json"
    path.write_text(json.dumps(content, separators=(",", ":")).replace('{"metrics"', '\n{"metrics"') + "\n")
    print(f"{path}: {len(runs)} runs")


if __name__ == "__main__":
    main(*sys.argv[1:])
