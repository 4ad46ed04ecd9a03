"""Several seeds trained at once, against the framework's single run: seconds of a batch, in alternation.

    python benchmarks/seeds.py --out results/seeds.json       # all cases; five minutes on an idle machine

Both train the same network from the start, some batches of MNIST each, A B A B ..., in one process; a first round warms
up. What counts is the time of a batch of all seeds over that of one seed's batch in a run: `--seeds` would be no gain.
Wall seconds are for an idle machine; the processor's seconds also mean something beside other processes.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from machine import machine

from ffbp.build import build
from ffbp.files import CHECKOUT, write_text
from ffbp.lifecycle import train as run
from ffbp.settings import Settings

sys.path.insert(0, str(CHECKOUT / "examples"))
from seeds_at_once import SeedsAtOnce, chosen_settings

CASES = {
    "ff": ("Forward-Forward, 784-128", ["algo=ff"]),
    "bp": ("backprop, 784-128-10", ["algo=bp", "model=mlp"]),
    "paper_ff": ("Forward-Forward, 784-128, input dropout", ["experiment=paper_ff"]),
}
WARM_UP = 5
"""Batches at the start of a round that are not counted."""

Clock = tuple[float, float]
"""Seconds of the wall's clock, and of the processor."""


def now() -> Clock:
    return time.perf_counter(), time.process_time()


class Batches(pl.Callback):
    """Note the time between the end of the warm-up and the last batch of a run."""

    started = ended = (0.0, 0.0)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        Batches.ended = now()
        if batch_idx == WARM_UP - 1:
            Batches.started = Batches.ended


def one_run(settings: Settings, batches: int) -> Clock:
    """Train one seed as `train.py` does, without a logger; the time of a batch."""
    limited = settings["trainer"] | {"limit_train_batches": WARM_UP + batches, "max_epochs": 1}
    callbacks = {"batches": {"_target_": f"{__name__}.Batches"}}
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        run.train(settings | {"trainer": limited, "callbacks": callbacks}, Path(folder), bar=False)
    wall, processor = (end - start for start, end in zip(Batches.started, Batches.ended, strict=True))
    return wall / batches, processor / batches


def at_once(settings: Settings, data: Any, seeds: int, batches: int) -> Clock:
    """Train some seeds together; the time of a batch of all."""
    training = SeedsAtOnce(settings, data, range(seeds))
    started = now()
    for number, each in enumerate(zip(*training.loaders, strict=True)):
        if number == WARM_UP:
            started = now()
        if number == WARM_UP + batches:
            break
        training.take_step(each)
    wall, processor = (end - start for start, end in zip(started, now(), strict=True))
    return wall / batches, processor / batches


def measure(words: list[str], seeds: int, threads: int, repeats: int, batches: int) -> dict[str, Any]:
    settings = chosen_settings([*words, "trainer=cpu", f"threads={threads}"])
    data = build("data", settings["data"], seed=0)
    torch.set_num_threads(threads)
    rounds = [(one_run(settings, batches), at_once(settings, data, seeds, batches)) for _ in range(repeats + 1)][1:]
    found: dict[str, Any] = {"seeds": seeds, "threads": threads}
    for kind, place in (("wall", 0), ("processor", 1)):
        ratios = [together[place] / alone[place] for alone, together in rounds]
        found[kind] = {
            "one_ms": round(1000 * statistics.median(alone[place] for alone, _ in rounds), 3),
            "together_ms": round(1000 * statistics.median(together[place] for _, together in rounds), 3),
            "ratio": round(statistics.median(ratios), 3),
            "least": round(min(ratios), 3),
            "most": round(max(ratios), 3),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=", ".join(CASES))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, default=200, help="of a round")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    about = machine() | {"goal": 2.5, "repeats": arguments.repeats, "batches": arguments.batches}
    cases: list[dict[str, Any]] = []
    for case in arguments.case or CASES:
        if case not in CASES:
            parser.error(f"{case}: one of {', '.join(CASES)} expected")
        what, words = CASES[case]
        for threads in arguments.threads:
            found = measure(words, arguments.seeds, threads, arguments.repeats, arguments.batches)
            cases.append({"what": what, "words": words, **found})
            for kind in ("wall", "processor"):
                figures = found[kind]
                spread = f"{figures['ratio']:.2f} ({figures['least']:.2f} to {figures['most']:.2f})"
                times = f"{figures['together_ms']:.2f} ms and {figures['one_ms']:.2f} ms"
                print(f"{what}: {found['seeds']} seeds, threads {threads}, {kind}: {spread}; {times}", flush=True)
            if arguments.out:
                write_text(arguments.out, json.dumps({"about": about, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
