"""Our training step against the best loops written by hand, against the other rule, and against its bare products.

    python benchmarks/steps.py --out results/steps.json        # all cases, six to seven minutes; also results/steps.png
    python benchmarks/steps.py mlp cnn --repeats 3 --threads 1

The sides of a case train some batches of MNIST in turn, A B C A B C ..., each in a process of its own, see
benchmarks/threads.py; a first round warms up. The loops by hand have all images of a round in order in memory, one
product for all labels, fused Adam, keep freed memory as ours do, and measure nothing. Bare products are the matrix
products of a step, of its shapes and types, and nothing else. The machine must be idle otherwise.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
from machine import machine
from matplotlib.figure import Figure
from speed import BATCH, fresh, settings, shared_losses
from threads import Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from ffbp.algorithms import Algorithm, ForwardForward
from ffbp.data import Batch, Batches
from ffbp.data.draws import Draws
from ffbp.data.sources import idx_set
from ffbp.lifecycle.freed_memory import keep_freed_memory
from ffbp.lifecycle.threads import usable_cores
from ffbp.report.figures import STYLE

WIDE = "model.widths=[1000,1000,1000]"
BF16 = "trainer.precision=bf16-mixed"


class Case(NamedTuple):
    """Sides that take turns."""

    ours: dict[str, list[str]]  # settings by name
    by_hand: tuple[str, ...]  # loops, see `by_hand`
    size: int  # images of a batch
    batches: int  # of a round
    products: bool = False  # whether the bare products of each of ours are measured, too


MLP = {"ff": ["algo=ff", "model=mlp"], "bp": ["algo=bp", "model=mlp"]}
CASES = {
    "mlp": Case(
        MLP | {f"{name} compiled": [*words, "compile=true"] for name, words in MLP.items()},
        ("ff hand", "ff hand compiled", "ff without Lightning", "bp hand", "bp without Lightning"),
        BATCH,
        400,
    ),
    "cnn": Case({"bp": ["algo=bp", "model=cnn"]}, ("bp hand",), BATCH, 60),
    "wide": Case({name: [*words, WIDE] for name, words in MLP.items()}, (), BATCH, 40, products=True),
    "wide 1000": Case({"ff": [*MLP["ff"], WIDE, "data.batch_size=1000"]}, (), 1000, 8, products=True),
    "wide 1000 bf16": Case({"ff": [*MLP["ff"], WIDE, "data.batch_size=1000", BF16]}, (), 1000, 10, products=True),
    "wide bf16": Case({"ff": [*MLP["ff"], WIDE, BF16]}, (), BATCH, 40, products=True),
}
RATIOS = [  # what, case, side, the other side, at most
    ("ff 784-128 / by hand", "mlp", "ff", "ff hand", None),
    ("ff 784-128, our step in a bare loop / by hand", "mlp", "ff without Lightning", "ff hand", None),
    ("ff 784-128, compile=true / by hand, compiled", "mlp", "ff compiled", "ff hand compiled", 1.2),
    ("bp 784-128-10 / by hand", "mlp", "bp", "bp hand", 1.0),
    ("bp 784-128-10, our step in a bare loop / by hand", "mlp", "bp without Lightning", "bp hand", None),
    ("bp 784-128-10, compile=true / by hand", "mlp", "bp compiled", "bp hand", 1.0),
    ("bp cnn / by hand, channels last", "cnn", "bp", "bp hand", 1.03),
    ("ff / bp, 784-128", "mlp", "ff", "bp", 1.3),
    ("ff / bp, 784-128, compile=true", "mlp", "ff compiled", "bp compiled", 1.3),
    ("ff / bp, 3x1000", "wide", "ff", "bp", 1.35),
    ("ff / bp, 3x1000, bare products", "wide", "ff products", "bp products", None),
    ("ff 3x1000, batch 100 / bare products", "wide", "ff", "ff products", None),
    ("ff 3x1000, batch 1000 / bare products", "wide 1000", "ff", "ff products", 1 / 0.85),
    ("ff 3x1000, batch 1000, bf16 / bare products", "wide 1000 bf16", "ff", "ff products", 1 / 0.6),
    ("ff 3x1000, batch 100, bf16 / bare products", "wide bf16", "ff", "ff products", 1 / 0.5),
]


def loop(
    stack: nn.Module, losses: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor, batches: int
) -> Callable[[], float]:
    """Training by hand: the seconds of `batches` batches of `images` in a new order."""
    optimizer = torch.optim.Adam(stack.parameters(), lr=3e-3, fused=True)

    def seconds() -> float:
        started = time.perf_counter()
        order = torch.randperm(len(images))[: batches * BATCH]
        x, y = images[order], labels[order]
        for part, answers in zip(x.split(BATCH), y.split(BATCH), strict=True):
            optimizer.zero_grad()
            losses(part, answers).backward()
            optimizer.step()
        return time.perf_counter() - started

    return seconds


def bare_loop(rule: Algorithm, images: Tensor, labels: Tensor, batches: int) -> Callable[[], float]:
    """Training by a rule's own step, measures and optimizer: what is left out is the loop, its hooks and callbacks."""
    rule.train()
    optimizer = rule.configure_optimizers()
    loader = Batches((255 * images).byte(), labels, batch_size=BATCH, shuffle=True)

    def seconds() -> float:
        started = time.perf_counter()
        for batch in islice(loader, batches):
            rule.seed_modules(batch)
            optimizer.zero_grad()
            if isinstance(rule, ForwardForward):
                for loss in rule.losses(batch):  # which records its measures
                    loss.backward()
            else:
                step = rule.step(batch)
                rule.record(step, batch)
                step.loss.backward()
            optimizer.step()
        return time.perf_counter() - started

    return seconds


def by_hand(case: str, kind: str, images: Tensor, labels: Tensor) -> Callable[[], float]:
    """A loop of a case that is not a run of ours, by the name of its side."""
    batches = CASES[case].batches
    if kind.endswith("without Lightning"):
        return bare_loop(fresh(*CASES[case].ours[kind.split()[0]]), images, labels, batches)
    if kind.startswith("ff"):
        both = nn.ModuleList([nn.Linear(784, 128), nn.Linear(128, 10)])
        losses = torch.compile(shared_losses) if kind == "ff hand compiled" else shared_losses
        return loop(both, lambda x, y: losses(*both, x, y), images.flatten(1), labels, batches)
    stack = fresh("algo=bp", f"model={case}").stack
    if case == "cnn":  # plain modules, each of which PyTorch may compute as it likes
        parts = [nn.Sequential(block.affine, *block.after) for block in stack.blocks[:-1]]
        rest = [nn.Flatten(), stack.blocks[-1].affine, *stack.blocks[-1].after, stack.head.affine]
        stack = nn.Sequential(*parts, *rest).to(memory_format=torch.channels_last)
    return loop(stack, lambda x, y: cross_entropy(stack(x), y), images, labels, batches)


def serve(case: str, kind: str, threads: str) -> None:
    """Train by hand in a process of its own, a round for each line that is read."""
    torch.set_num_threads(int(threads))
    keep_freed_memory()
    seconds = by_hand(case, kind, *training_images())
    print("{}", flush=True)
    for _ in sys.stdin:
        print(seconds(), flush=True)


def training_images() -> tuple[Tensor, Tensor]:
    """MNIST's training images (N, 1, 28, 28), floats in [0, 1], and their labels (N,)."""
    training, _ = idx_set("mnist", Path(settings()["data"]["data_dir"]))
    return training.images.float() / 255, training.labels


class Products(TorchDispatchMode):
    """Note the matrix products that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[tuple[Any, list[Tensor]]] = []

    def __torch_dispatch__(self, function: Any, types: Any, inputs: Any = (), named: Any = None) -> Any:
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.noted.append((function, [torch.rand_like(part) for part in inputs]))  # of the same strides
        return function(*inputs, **(named or {}))


def bare_products(words: list[str], images: Tensor, labels: Tensor, batches: int) -> tuple[Callable[[], float], float]:
    """The seconds of the products of `batches` batches and nothing else, and their operations, in units of 10^9."""
    rule, count = fresh(*(word for word in words if not word.startswith("trainer"))), len(images)
    batch = Batch(images, labels, Draws((0, 0, 0), count, slice(None), images.device))
    with Products() as products:
        precision = torch.autocast("cpu", torch.bfloat16) if BF16 in words else nullcontext()
        with precision:
            losses = list(rule.losses(batch)) if hasattr(rule, "losses") else [rule.step(batch).loss]
        torch.autograd.backward(losses)
    operations = sum(2 * inputs[-2].numel() * inputs[-1].shape[1] for _, inputs in products.noted) / 1e9

    def seconds() -> float:
        started = time.perf_counter()
        for _ in range(batches):
            for function, inputs in products.noted:
                function(*inputs)
        return time.perf_counter() - started

    return seconds, operations * batches


def measure(name: str, repeats: int, threads: int, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Milliseconds of a batch for each side of a case, and GFLOP/s where products are counted."""
    case, operations = CASES[name], dict[str, float]()
    trainers = {side: Trainer.of_ours(words, case.batches, str(threads), None) for side, words in case.ours.items()}
    trainers |= {kind: Trainer([__file__, "--serve", name, kind, str(threads)], os.environ) for kind in case.by_hand}
    sides = {side: trainer.seconds for side, trainer in trainers.items()}
    for side, words in case.ours.items() if case.products else ():
        part = images[: case.size], labels[: case.size]
        sides[f"{side} products"], operations[side] = bare_products(words, *part, case.batches)
        operations[f"{side} products"] = operations[side]
    rounds = [{side: seconds() for side, seconds in sides.items()} for _ in range(repeats + 1)][1:]
    for trainer in trainers.values():
        trainer.close()
    found: dict[str, Any] = {}
    for side in sides:
        each = [1000 * one[side] / case.batches for one in rounds]
        found[side] = summary(each) | {"rounds": [round(value, 4) for value in each]}
        if side in operations:
            found[side]["gflop_per_second"] = operations[side] / statistics.median(one[side] for one in rounds)
    return found


def ratios(cases: dict[str, Any]) -> list[dict[str, Any]]:
    """The quotients for which both sides are measured, each of the same round."""
    found = []
    for what, case, one, other, wanted in RATIOS:
        if sides := cases.get(case):
            each = [a / b for a, b in zip(sides[one]["rounds"], sides[other]["rounds"], strict=True)]
            found.append({"what": what, "case": case, "sides": [one, other], "wanted": wanted, **summary(each)})
    return found


def summary(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def draw(rows: list[dict[str, Any]], about: dict[str, Any], path: Path) -> None:
    """A bar for each quotient, and a line at what is wanted; bf16 is left out where the processor emulates it."""
    rows = [row for row in rows if about.get("bf16", True) or "bf16" not in row["what"]]
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(8.5, 1 + 0.34 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, row in enumerate(rows):
            reach = [[row["median"] - row["least"]], [row["most"] - row["median"]]]
            axes.barh(place, row["median"], 0.62, color="#7db8e0", xerr=reach, ecolor="#6b7280")
            axes.annotate(f"{row['median']:.2f}", (0.03, place), va="center", fontsize=9)
        wanted = {place: row["wanted"] for place, row in enumerate(rows) if row["wanted"]}
        axes.scatter(
            list(wanted.values()),
            list(wanted),
            marker="|",
            s=260,
            linewidth=2.5,
            color="#d1495b",
            label="goal",
            zorder=4,
        )
        axes.axvline(1, color="#6b7280", linewidth=0.8, zorder=1)
        axes.set_axisbelow(True)
        axes.set_yticks(range(len(rows)), [row["what"] for row in rows])
        axes.invert_yaxis()
        axes.set(
            xlabel=f"time of a batch over that of the other side: median and range\n{about['cpu']}", xlim=(0, None)
        )
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper right", frameon=False)
        figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=", ".join(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--out", type=Path, help="a JSON file; the picture lies beside it")
    arguments = parser.parse_args()
    if unknown := set(arguments.case) - set(CASES):
        parser.error(f"{', '.join(unknown)}: {', '.join(CASES)} expected")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    images, labels = training_images()
    about = machine() | {"repeats": arguments.repeats, "threads": arguments.threads}
    there = json.loads(arguments.out.read_text())["cases"] if arguments.out and arguments.out.exists() else {}
    cases = {name: there[name] for name in CASES if name in there}  # those that are not measured now
    for case in arguments.case or CASES:
        cases[case] = measure(case, arguments.repeats, arguments.threads, images, labels)
        for name, row in cases[case].items():
            rate = f", {row['gflop_per_second']:.0f} GFLOP/s" if "gflop_per_second" in row else ""
            print(f"{case}, {name}: {row['median']:.3f} ms ({row['least']:.3f} to {row['most']:.3f}){rate}", flush=True)
        if arguments.out:  # after each case, so that what is measured stays if the next one is interrupted
            written = {"about": about, "cases": cases, "ratios": ratios(cases)}
            arguments.out.write_text(json.dumps(written, indent=1) + "\n")
    for row in ratios(cases):
        wanted = f", at most {row['wanted']:.2f} wanted" if row["wanted"] else ""
        print(f"{row['what']}: {row['median']:.2f} ({row['least']:.2f} to {row['most']:.2f}){wanted}")
    if arguments.out:
        draw(ratios(cases), about, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main()
