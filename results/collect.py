"""Copy what a sweep measured into a file in this folder.

python results/collect.py paper_ff logs/sweeps/paper_ff "python train.py -m experiment=paper_ff seed=0,1,2"
"""

import json
import sys
from pathlib import Path

from recorded import recorded

from ffbp.report.runs import read_runs


def main(name: str, directory: str, command: str) -> None:
    runs = [recorded(run, kinds=("gradients/", "units/")) for run in read_runs(Path(directory))]
    content = {"command": command, "runs": runs}
    path = Path(__file__).parent / f"{name}.json"
    path.write_text(json.dumps(content, separators=(",", ":")).replace('{"metrics"', '\n{"metrics"') + "\n")
    print(f"{path}: {len(runs)} runs")


if __name__ == "__main__":
    main(*sys.argv[1:])
