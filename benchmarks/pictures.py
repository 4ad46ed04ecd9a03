"""What TensorBoard's pictures cost: paper_ff with them and without, in turn, and the seconds spent on them.

    python benchmarks/pictures.py --out results/pictures.json              # 10 epochs, and what 100 would come to
    python benchmarks/pictures.py --epochs 100 --repeats 1

A run's `time/total_seconds` is what counts. On a shared machine it varies by more than the pictures take, so the time
within their callback is measured, too; `share` is that time by the total of the same run. The figures for 100 epochs
are put together from it: one drawing for each of epochs 0, 1, 2, 5, 10, 20, 50 and 100, what is drawn once, and as many
epochs without pictures.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from machine import machine
from omegaconf import OmegaConf

from ffbp.callbacks import Pictures
from ffbp.files import CONF
from ffbp.lifecycle.train import train

LIMIT = 0.03
DRAWN_IN_100 = 8  # epochs 0, 1, 2, 5, 10, 20, 50, 100
HOOKS = [name for name in vars(Pictures) if name.startswith("on_")]


class Stopwatch:
    """Seconds and processor seconds within the callback's hooks, by hook; of hooks of a batch seconds alone."""

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {}

    def measured(self, name: str) -> Callable[..., None]:
        hook = getattr(Pictures, name)

        # asking for the processor's time takes longer than a hook of a batch, which does nothing
        processor = (lambda: 0.0) if "batch" in name else time.process_time

        @wraps(hook)
        def timed(*given: Any, **named: Any) -> None:
            began = time.perf_counter(), processor()
            hook(*given, **named)
            ended = time.perf_counter(), processor()
            before = self.spent.get(name, [0.0, 0.0])
            self.spent[name] = [total + b - a for total, a, b in zip(before, began, ended, strict=True)]

        return timed


def one_run(epochs: int, with_pictures: bool) -> dict[str, Any]:
    words = ["experiment=paper_ff", f"trainer.max_epochs={epochs}", "trainer=cpu"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", words if with_pictures else [*words, "~callbacks.pictures"])
    OmegaConf.update(config, "paths.output_dir", "unused")
    chosen, watch, hooks = OmegaConf.to_container(config, resolve=True), Stopwatch(), {}
    for name in HOOKS:
        hooks[name] = getattr(Pictures, name)
        setattr(Pictures, name, watch.measured(name))
    processor = time.process_time()
    try:
        with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            chosen["logger"]["tensorboard"]["save_dir"] = folder
            metrics = train(chosen, Path(folder), bar=True)
    finally:
        for name, hook in hooks.items():
            setattr(Pictures, name, hook)
    return {
        "total_seconds": metrics["time/total_seconds"],
        "train_seconds": metrics["time/train_seconds"],
        "processor_seconds": time.process_time() - processor,
        "pictures": watch.spent,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    one_run(1, True)  # warms up
    pairs = [(one_run(arguments.epochs, True), one_run(arguments.epochs, False)) for _ in range(arguments.repeats)]

    def middle(figure: Callable[[dict[str, Any]], float], which: int) -> float:
        return statistics.median(figure(pair[which]) for pair in pairs)

    def spent(run: dict[str, Any], number: int = 0, names: Sequence[str] = HOOKS) -> float:
        return sum(seconds[number] for name, seconds in run["pictures"].items() if name in names)

    drawn = len({0, 1, 2, 5, 10, 20, 50, 100, arguments.epochs} & set(range(arguments.epochs + 1)))
    total = middle(lambda run: run["total_seconds"], 0)
    without = middle(lambda run: run["total_seconds"], 1)
    pictures = middle(spent, 0)
    often = ("on_train_start", "on_train_epoch_end", "on_validation_batch_end")  # what is done at each drawing
    by_batch = ("on_train_batch_start", "on_train_batch_end")  # examples, once, and nothing at each other batch
    drawings = middle(lambda run: spent(run, names=often), 0)
    batches = middle(lambda run: spent(run, names=by_batch), 0)
    in_100 = pictures - drawings - batches + drawings / drawn * DRAWN_IN_100 + batches / arguments.epochs * 100
    total_100 = (
        in_100 + without + (100 - arguments.epochs) * middle(lambda run: run["train_seconds"], 1) / (arguments.epochs)
    )
    figures = {
        "what": f"experiment=paper_ff trainer.max_epochs={arguments.epochs}",
        "limit": LIMIT,
        "total_seconds": total,
        "total_seconds_without": without,
        "pictures_seconds": pictures,
        "share": middle(lambda run: spent(run) / run["total_seconds"], 0),
        "processor_share": middle(lambda run: spent(run, 1) / run["processor_seconds"], 0),
        "drawings": drawn,
        "share_of_100_epochs": in_100 / total_100,
        "by_hook": {name: seconds[0] for name, seconds in pairs[0][0]["pictures"].items()},
    }
    about = machine() | {"repeats": arguments.repeats, "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    print(
        f"pictures: {figures['share']:.2%} of {total:.1f} s in {arguments.epochs} epochs, "
        f"{figures['share_of_100_epochs']:.2%} in 100, at most {LIMIT:.0%} wanted; "
        f"{total - without:+.1f} s between runs with and without"
    )
    if arguments.out:
        arguments.out.write_text(json.dumps({"about": about, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
