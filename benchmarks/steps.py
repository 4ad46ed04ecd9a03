"""Our training step against the best loops written by hand, against the other rule, and against its bare products.

    python benchmarks/steps.py --out results/steps.json        # all cases, about five minutes; also results/steps.png
    python benchmarks/steps.py ff_mlp bp_mlp --repeats 3 --threads 1

The sides of a case train some batches of MNIST in turn, A B C A B C ..., each in a process of its own, see
benchmarks/threads.py; a first round warms up. The loops by hand have all images of a round in order in memory, one
product for all labels, fused Adam, and measure nothing. Like ours they keep the memory that a step frees, see
`ffbp.lifecycle.freed_memory`, but for one that leaves malloc's defaults as they are. Bare products are the matrix
products of a step, of its shapes and types, and nothing else. The machine must be idle otherwise.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from speed import BATCH, fresh, settings, shared_losses
from threads import Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from ffbp.data import Batch
from ffbp.data.draws import Draws
from ffbp.data.sources import idx_set
from ffbp.lifecycle.freed_memory import keep_freed_memory
from ffbp.lifecycle.threads import usable_cores

WIDE = "model.widths=[1000,1000,1000]"
BF16 = "trainer.precision=bf16-mixed"
CASES: dict[str, tuple[list[str], int, int]] = {  # settings, images of a batch, batches of a round
    "ff_mlp": (["algo=ff", "model=mlp"], BATCH, 600),
    "bp_mlp": (["algo=bp", "model=mlp"], BATCH, 600),
    "bp_cnn": (["algo=bp", "model=cnn"], BATCH, 60),
    "wide": ([WIDE], BATCH, 60),
    "products_1000": (["algo=ff", WIDE, "data.batch_size=1000"], 1000, 8),
    "products_1000_bf16": (["algo=ff", WIDE, "data.batch_size=1000", BF16], 1000, 10),
    "products_100_bf16": (["algo=ff", WIDE, BF16], BATCH, 60),
}
MALLOC = "hand, malloc's defaults"
BY_HAND = {"ff_mlp": ("hand", "hand compiled", MALLOC), "bp_mlp": ("hand", MALLOC), "bp_cnn": ("hand", MALLOC)}
RATIOS = [  # what, side, the other side, at most
    ("ff 784-128, compile=true / hand, compiled", "ff_mlp ours compiled", "ff_mlp hand compiled", 1.2),
    ("ff 784-128 / hand, eager", "ff_mlp ours", "ff_mlp hand", None),
    ("the same / hand, eager, malloc's defaults", "ff_mlp ours", f"ff_mlp {MALLOC}", None),
    ("bp 784-128-10 / hand, eager", "bp_mlp ours", "bp_mlp hand", 1.0),
    ("bp 784-128-10, compile=true / hand, eager", "bp_mlp ours compiled", "bp_mlp hand", 1.0),
    ("the same, not compiled / malloc's defaults", "bp_mlp ours", f"bp_mlp {MALLOC}", None),
    ("bp cnn / hand, eager, channels last", "bp_cnn ours", "bp_cnn hand", 1.03),
    ("the same / malloc's defaults", "bp_cnn ours", f"bp_cnn {MALLOC}", None),
    ("ff / bp, 784-128", "ff_mlp ours", "bp_mlp ours", 1.3),
    ("ff / bp, 3x1000", "wide ff", "wide bp", 1.35),
    ("ff / bp, 3x1000, bare products", "wide ff products", "wide bp products", None),
    ("ff 3x1000, batch 1000 / bare products", "products_1000 ours", "products_1000 products", 1 / 0.85),
    ("the same, bf16", "products_1000_bf16 ours", "products_1000_bf16 products", 1 / 0.6),
    ("ff 3x1000, batch 100, bf16 / bare products", "products_100_bf16 ours", "products_100_bf16 products", 1 / 0.5),
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


def by_hand(case: str, images: Tensor, labels: Tensor, batches: int, *, compiled: bool) -> Callable[[], float]:
    """The loop by hand of a case."""
    if case == "ff_mlp":
        both = nn.ModuleList([nn.Linear(784, 128), nn.Linear(128, 10)])
        losses = torch.compile(shared_losses) if compiled else shared_losses
        return loop(both, lambda x, y: losses(*both, x, y), images.flatten(1), labels, batches)
    stack = fresh("algo=bp", f"model={case[3:]}").stack
    if case == "bp_cnn":  # plain modules, each of which PyTorch may compute as it likes
        parts = [nn.Sequential(block.affine, *block.after) for block in stack.blocks[:-1]]
        rest = [nn.Flatten(), stack.blocks[-1].affine, *stack.blocks[-1].after, stack.head.affine]
        stack = nn.Sequential(*parts, *rest).to(memory_format=torch.channels_last)
    return loop(stack, lambda x, y: cross_entropy(stack(x), y), images, labels, batches)


def serve(case: str, kind: str, threads: str) -> None:
    """Train by hand in a process of its own, a round for each line that is read."""
    torch.set_num_threads(int(threads))
    if kind != MALLOC:
        keep_freed_memory()
    seconds = by_hand(case, *training_images(), CASES[case][2], compiled=kind == "hand compiled")
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


def measure(case: str, repeats: int, threads: int, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """Milliseconds of a batch for each side of a case, and GFLOP/s where products are counted."""
    words, size, batches = CASES[case]
    ours = {"ours": words}
    if case in ("ff_mlp", "bp_mlp"):
        ours["ours compiled"] = [*words, "compile=true"]
    if case == "wide":
        ours = {rule: [f"algo={rule}", "model=mlp", *words] for rule in ("ff", "bp")}
    trainers = {name: Trainer.of_ours(chosen, batches, str(threads), None) for name, chosen in ours.items()}
    for kind in BY_HAND.get(case, ()):
        trainers[kind] = Trainer([__file__, "--serve", case, kind, str(threads)], os.environ)
    sides = {name: trainer.seconds for name, trainer in trainers.items()}
    operations = {}
    if case.startswith(("wide", "products")):
        for name, chosen in ours.items():
            products = "products" if name == "ours" else f"{name} products"
            sides[products], operations[name] = bare_products(chosen, images[:size], labels[:size], batches)
            operations[products] = operations[name]
    rounds = [{name: seconds() for name, seconds in sides.items()} for _ in range(repeats + 1)][1:]
    for trainer in trainers.values():
        trainer.close()
    found: dict[str, Any] = {}
    for name in sides:
        each = [1000 * one[name] / batches for one in rounds]
        found[f"{case} {name}"] = {"median": statistics.median(each), "least": min(each), "most": max(each)}
        if name in operations:
            rate = operations[name] / statistics.median(one[name] for one in rounds)
            found[f"{case} {name}"]["gflop_per_second"] = rate
    return found


def ratios(sides: dict[str, Any]) -> list[dict[str, Any]]:
    """The quotients of medians for which both sides are measured."""
    return [
        {"what": what, "sides": [one, other], "wanted": wanted, "ratio": sides[one]["median"] / sides[other]["median"]}
        for what, one, other, wanted in RATIOS
        if one in sides and other in sides
    ]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A bar for each quotient, and a line at what is wanted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.8 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(rows):
        axes.barh(place, row["ratio"], 0.6, color="#0072b2")
        axes.annotate(f" {row['ratio']:.2f}", (row["ratio"], place), va="center", fontsize=9)
        if row["wanted"]:
            label = "at most wanted" if place == 0 else None
            axes.plot([row["wanted"]] * 2, [place - 0.4, place + 0.4], color="#d55e00", linewidth=2, label=label)
    axes.set_yticks(range(len(rows)), [row["what"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("time of a batch, in that of the other side")
    axes.margins(x=0.1)
    axes.spines[["top", "right"]].set_visible(False)
    if any(row["wanted"] for row in rows[:1]):
        figure.legend(loc="outside lower right", frameon=False)
    figure.savefig(path, dpi=150)


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
    about = {"repeats": arguments.repeats, "threads": arguments.threads, "cores": os.cpu_count()}
    about |= {"cpu": platform.processor() or platform.machine()}
    about |= {"torch": torch.__version__, "lightning": pl.__version__}
    sides: dict[str, Any] = {}
    for case in arguments.case or CASES:
        found = measure(case, arguments.repeats, arguments.threads, images, labels)
        sides |= found
        for name, row in found.items():
            rate = f", {row['gflop_per_second']:.0f} GFLOP/s" if "gflop_per_second" in row else ""
            print(f"{name}: {row['median']:.3f} ms ({row['least']:.3f} to {row['most']:.3f}){rate}", flush=True)
        if arguments.out:  # after each case, so that what is measured stays if the next one is interrupted
            written = {"about": about, "milliseconds_of_a_batch": sides, "ratios": ratios(sides)}
            arguments.out.write_text(json.dumps(written, indent=1) + "\n")
    for row in ratios(sides):
        wanted = f", at most {row['wanted']:.2f} wanted" if row["wanted"] else ""
        print(f"{row['what']}: {row['ratio']:.2f}{wanted}")
    if arguments.out:
        draw(ratios(sides), arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main()
