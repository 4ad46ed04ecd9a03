"""How long the commands take until they say something, and until the first training step.

    python benchmarks/startup.py --out results/startup.json

Each case is a process of its own; the cases take turns, and medians count. `seconds` is by the clock, on an idle
machine; `cpu_seconds` is what the process computed, which other processes change little.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lightning.pytorch as pl
from machine import machine

ROOT = Path(__file__).parents[1]
TRAIN = str(ROOT / "train.py")
STEP = ["+callbacks.first._target_=startup.FirstStep", "hydra.run.dir=run"]

CASES = {
    "python": (["-c", "pass"], None),
    "torch": (["-c", "import torch"], None),
    "torch_lightning": (["-c", "import torch, lightning.pytorch"], None),
    "help": ([TRAIN, "--help"], 1.0),
    "refusal_name": ([TRAIN, "trainr.max_epochs=1"], 1.0),
    "refusal_value": ([TRAIN, "seed=-1"], 1.0),
    "completion": ([TRAIN, "-sc", "query=bash"], 0.5),
    "step_digits": ([TRAIN, "algo=bp", "model=mlp", "data=digits", *STEP], None),
    "step_mnist": ([TRAIN, "algo=ff", *STEP], None),
}
"""By name: the words behind `python`, and the most seconds that are wanted."""


class FirstStep(pl.Callback):
    """End the process after the first training step."""

    def on_train_batch_end(self, *arguments: object, **more: object) -> None:
        os._exit(0)


def once(words: list[str]) -> tuple[float, float]:
    """Run Python with some words, and return its seconds by the clock and those that it computed."""
    paths = [str(ROOT / "src"), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "COMP_LINE": "python train.py algo=f"}
    with tempfile.TemporaryDirectory() as folder:
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, check=False)
        seconds, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=", ".join(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    names = arguments.case or list(CASES)
    rounds = [{name: once(CASES[name][0]) for name in names} for _ in range(arguments.repeats + 1)][1:]
    figures = {}
    for name in names:
        seconds, computed = ([each[name][kind] for each in rounds] for kind in (0, 1))
        wanted = CASES[name][1]
        figures[name] = {"limit": wanted, "seconds": summary(seconds), "cpu_seconds": summary(computed)}
        limit = f", at most {wanted} wanted" if wanted else ""
        print(f"{name}: {statistics.median(seconds):.2f} s, {statistics.median(computed):.2f} s computed{limit}")
    for name in {"step_digits", "step_mnist"} & figures.keys() if "torch_lightning" in figures else ():
        more = figures[name]["seconds"]["median"] - figures["torch_lightning"]["seconds"]["median"]
        figures[name] |= {"beyond_imports": more, "limit": 2.0}
        print(f"{name}: {more:.2f} s more than importing torch and lightning, at most 2.0 wanted")
    about = machine() | {"repeats": arguments.repeats}
    if arguments.out:
        arguments.out.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
