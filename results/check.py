"""Train each cheap experiment once more, with a seed that its figures do not have, and see whether they foretold it.

python results/check.py                # a seed drawn now, experiments of at most ten minutes
python results/check.py 11 paper_ff    # a seed and experiments of one's own choice

A figure stands if the new accuracy lies in the 95 % prediction interval of those in results/, which one in twenty does
not even if all is well. Exit code 1 if more do not than that makes likely. FFBP_DATA_DIR says where the images are. The
ten minutes are those of the runs in results/: experiments in bf16 take hours on a processor without it, so name others.
"""

import json
import os
import secrets
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from recorded import prediction_interval
from scipy.stats import binom

from ffbp.report.runs import read_runs

RESULTS = Path(__file__).parent
ROOT = RESULTS.parent
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
CHEAP = 600.0  # seconds
LIKELY = 0.05  # what is less likely than this, if one figure in twenty fails by chance, is no chance


def read(name: str) -> list[dict[str, Any]]:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text())["runs"] if path.exists() else []


def seconds(runs: list[dict[str, Any]]) -> float:
    return statistics.fmean(run["metrics"].get("time/total_seconds", 0.0) for run in runs)


def main(seed: str = "", *names: str) -> None:
    seed = seed or str(1000 + secrets.randbelow(1_000_000))
    chosen = names or [name for name in EXPERIMENTS if len(runs := read(name)) > 1 and seconds(runs) <= CHEAP]
    outside = 0
    print(f"seed {seed}")
    for name in chosen:
        known = read(name)
        if seed in {str(run["metrics"]["seed"]) for run in known}:
            sys.exit(f"{name}: has a run with seed {seed}; choose a new one.")
        low, high = prediction_interval([run["metrics"]["test/acc"] for run in known])
        place = ROOT / "logs" / "check" / f"{name}_{seed}"
        command = ["train.py", "-m", f"experiment={name}", f"seed={seed}", f"hydra.sweep.dir={place}"]
        place.mkdir(parents=True, exist_ok=True)
        with Path(f"{place}.log").open("a") as log:
            subprocess.run(
                [sys.executable, *command],
                cwd=ROOT,
                env={"OMP_NUM_THREADS": "1", **os.environ},
                stdout=log,
                stderr=log,
                check=False,
            )
        [run] = read_runs(place)
        inside = low <= run.metrics["test/acc"] <= high
        outside += not inside
        text = f"{100 * run.metrics['test/acc']:.2f}, expected {100 * low:.2f} to {100 * high:.2f}"
        print(f"{name}: {text}{'' if inside else ' <- outside'}", flush=True)
    chance = float(binom.sf(outside - 1, len(chosen), 0.05)) if chosen else 1.0
    print(f"{outside} of {len(chosen)} outside; as many or more by chance: {chance:.0%}")
    sys.exit(1 if outside and chance < LIKELY else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
