"""Forward-Forward's layers on several processes: measured for two here, and on paper for 1,000.

    python benchmarks/pipeline.py --out results/pipeline.json     # and results/pipeline.png; ten minutes when idle

Measured: 784-2000-2000-2000-2000 with uniform negatives on MNIST, batch 100, one thread a process, examples/pipeline.py
in one process and in two, in alternation; the first batches of a round warm up. Two processes need two idle cores:
beside other work the wall's seconds say nothing, and the processor's say how much each process has to do. The one that
has most sets the pace, so `limit` is what the division of the layers allows.

On paper: 1,000 layers of 2,000 units and 100 epochs of 550 batches, of 100 images. Per layer and batch there are
products of B x D x D: under Forward-Forward one for the neutral label, two for positives and negatives, two for their
weights; under backpropagation one forward, one back, one for the weights. The head sees the last layer only.
FLOPS and BANDWIDTH are per process.
- Forward-Forward passes on 3 B D numbers per batch while it computes: k processes take (N + k - 1) steps of
  max(time of L/k layers, time of the transfer) for N batches, since the pipeline is filled once.
- With hard negatives the first layer waits at each batch for the head's answer: the neutral passes of all layers one
  after the other, then the rest of one process's layers.
- Backpropagation has to empty the pipeline at each batch, before the weights move. With the batch in m parts, k
  processes are busy m of m + k - 1 steps (GPipe, Huang et al. 2019, arXiv:1811.06965). Small parts are taken to be as
  fast, per image, as large ones, which they are not, and transfers to be free.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from machine import machine
from matplotlib.figure import Figure
from torch import distributed, multiprocessing

from ffbp.build import build
from ffbp.data.sources import Labelled
from ffbp.files import CHECKOUT, write_text
from ffbp.report.figures import COLORS, STYLE

sys.path.insert(0, str(CHECKOUT / "examples"))
from pipeline import Stage, chosen_settings

WORDS = ["algo.negatives=uniform", "model.widths=[2000,2000,2000,2000]", "trainer.max_epochs=2", "threads=1"]
BATCH, UNITS, LAYERS, BATCHES = 100, 2000, 1000, 100 * 550
FLOPS, BANDWIDTH = 60e9, 1e9  # operations and bytes a second


def train_part(rank: int, processes: int, batches: int, folder: Path) -> None:
    """Train one process's layers for two epochs of some batches, and write down the time of a batch of the second."""
    torch.set_num_threads(1)
    settings = chosen_settings(WORDS)
    data = build("data", settings["data"], seed=0)
    few = slice(0, batches * data.batch_size)
    data.train = Labelled(data.train.images[few], data.train.labels[few])
    stage = Stage(settings, data, rank, processes)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    stage.train_epoch(0)
    distributed.barrier()
    started, worked = time.perf_counter(), time.process_time()
    stage.train_epoch(1)
    processor = time.process_time() - worked
    distributed.barrier()
    seconds = {"wall": (time.perf_counter() - started) / batches, "processor": processor / batches}
    write_text(folder / f"{rank}.json", json.dumps(seconds))
    distributed.destroy_process_group()


def measure(processes: int, batches: int) -> dict[str, Any]:
    """Seconds of a batch: of the wall's clock, and of each process's processor."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        multiprocessing.start_processes(
            train_part, (processes, batches, folder), nprocs=processes, start_method="spawn"
        )
        found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]
    return {"wall": max(one["wall"] for one in found), "processor": [one["processor"] for one in found]}


def summary(rounds: list[dict[int, dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds, and how many times faster two processes are."""
    wall = [each[1]["wall"] / each[2]["wall"] for each in rounds]
    limit = [each[1]["processor"][0] / max(each[2]["processor"]) for each in rounds]
    return {
        "rounds": rounds,
        "speedup": {"median": statistics.median(wall), "least": min(wall), "most": max(wall)},
        "limit": {"median": statistics.median(limit), "least": min(limit), "most": max(limit)},
    }


def forward_forward(processes: int) -> float:
    """How many times faster the whole training is, filling the pipeline included."""
    layer = 5 * 2 * BATCH * UNITS**2 / FLOPS  # seconds of a batch
    transfer = 3 * BATCH * UNITS * 4 / BANDWIDTH if processes > 1 else 0.0
    step = max(LAYERS / processes * layer, transfer)
    return BATCHES * LAYERS * layer / ((BATCHES + processes - 1) * step)


def hard_negatives(processes: int) -> float:
    """As `forward_forward`, where each batch waits for the answer of the head."""
    product = 2 * BATCH * UNITS**2 / FLOPS
    transfer = BATCH * UNITS * 4 / BANDWIDTH
    step = LAYERS * product + 4 * LAYERS / processes * product + (processes - 1) * transfer
    return 5 * LAYERS * product / step


def backprop(processes: int, parts: int) -> float:
    """The same of backpropagation, with the batch in parts."""
    return processes * parts / (processes + parts - 1)


PAPER = {
    "Forward-Forward, uniform negatives": forward_forward,
    "Forward-Forward, hard negatives": hard_negatives,
    "backprop, batch in 100 parts of an image": lambda processes: backprop(processes, 100),
    "backprop, batch in 10 parts": lambda processes: backprop(processes, 10),
    "backprop, batch in one part": lambda processes: backprop(processes, 1),
}
PROCESSES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]


def draw(paper: dict[str, list[float]], measured: dict[str, Any] | None, path: Path) -> None:
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(7.5, 4.4), layout="constrained")
        axes = figure.subplots()
        for (name, found), color in zip(paper.items(), COLORS, strict=False):
            axes.plot(PROCESSES, found, "o-", color=color, label=name, markersize=3.5)
        if measured:
            axes.plot([2], [measured["speedup"]["median"]], "k*", markersize=11, label="measured, 4 layers", zorder=5)
        axes.set(xscale="log", yscale="log", xlabel="processes", ylabel="times as fast as one process")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
        axes.set_title("1,000 layers of 2,000 units, on paper", loc="left")
        axes.legend(frameon=False)
        figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="0: only what is on paper")
    parser.add_argument("--batches", type=int, default=50, help="of a round, after as many to warm up")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    about = machine() | {"words": WORDS}
    about |= {"flops": FLOPS, "bandwidth": BANDWIDTH, "repeats": arguments.repeats, "batches": arguments.batches}
    paper = {name: [round(speedup(k), 3) for k in PROCESSES] for name, speedup in PAPER.items()}
    results: dict[str, Any] = {"about": about | {"goal": 1.6}, "processes": PROCESSES, "paper": paper, "measured": None}
    rounds: list[dict[int, dict[str, Any]]] = []
    for name, found in paper.items():
        print(f"on paper, {name}: {found[-1]:.1f} with {PROCESSES[-1]} processes")
    for number in range(arguments.repeats):
        rounds.append({processes: measure(processes, arguments.batches) for processes in (1, 2)})
        results["measured"] = summary(rounds)
        speedup, limit = results["measured"]["speedup"]["median"], results["measured"]["limit"]["median"]
        print(f"round {number + 1}: two processes {speedup:.2f} times as fast, {limit:.2f} at best", flush=True)
        if arguments.out:
            write_text(arguments.out, json.dumps(results, indent=1) + "\n")
    if arguments.out:
        write_text(arguments.out, json.dumps(results, indent=1) + "\n")
        draw(paper, results["measured"], arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
