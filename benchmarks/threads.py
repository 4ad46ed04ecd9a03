"""One thread or two, alone and beside a busy process, and how threads wait for each other.

    python benchmarks/threads.py --out results/threads.json        # all cases; also draws results/threads.png
    python benchmarks/threads.py ff_mlp bp_cnn --repeats 3 --batches 50

Each way of computing is a process of its own, since OpenMP reads at its start how threads wait. The processes of a
case are started one after the other, and then train in turn, A B C A B C ..., some batches of MNIST each: first alone,
then beside a process that computes all the time. The machine must be idle otherwise. A first round warms up.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from machine import machine

CASES = {
    "ff_mlp": ("Forward-Forward, 784-128, batch 100", ["algo=ff", "model=mlp"], 100),
    "bp_mlp": ("backprop, 784-128-10, batch 100", ["algo=bp", "model=mlp"], 100),
    "ff_500": ("Forward-Forward, 784-500, batch 100", ["algo=ff", "model=mlp", "model.widths=[500]"], 50),
    "ff_wide": ("Forward-Forward, 3x1000, batch 100", ["algo=ff", "model=mlp", "model.widths=[1000,1000,1000]"], 20),
    "ff_wide_1000": (
        "Forward-Forward, 3x1000, batch 1000",
        ["algo=ff", "model=mlp", "model.widths=[1000,1000,1000]", "data.batch_size=1000"],
        4,
    ),
    "bp_cnn": ("backprop, CNN, batch 100", ["algo=bp", "model=cnn"], 20),
}
"""By name: what it is, its settings, and the batches of a round."""

WAYS = {
    "1 thread": ("1", None),
    "2 threads, spinning as OpenMP does": ("2", None),
    "2 threads, spinning briefly": ("2", "1000"),
}
"""By name: the number of threads, and GOMP_SPINCOUNT."""

COLOURS = ["#0072b2", "#999999", "#d55e00"]


class Trainer:
    """A process that trains the batches of a round whenever it is asked to: it reads a line, trains, and answers."""

    def __init__(self, command: list[str], environment: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *command], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.about = json.loads(self._answer())

    @classmethod
    def of_ours(cls, words: list[str], batches: int, threads: str, spin: str | None) -> "Trainer":
        """One that trains with some settings as `train.py` does, see `serve`."""
        chosen = {
            name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
        }
        chosen |= {"OMP_NUM_THREADS": threads} | ({} if spin is None else {"GOMP_SPINCOUNT": spin})
        return cls([__file__, "--serve", str(batches), *words, f"threads={threads}"], chosen)

    def seconds(self) -> float:
        """Train the batches of a round, and return how long it took."""
        assert self.process.stdin
        print(file=self.process.stdin, flush=True)
        return float(self._answer())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a training broke off")
        return line


def serve(words: list[str], batches: int) -> None:
    """Train with the given settings, and wait for a line before each epoch, which is `batches` long."""
    import lightning.pytorch as pl
    import torch
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from ffbp.files import CONF
    from ffbp.lifecycle import train as run

    answers = sys.stdout

    class InTurn(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch:
                print(self.took, file=answers, flush=True)
            else:
                about = {"threads": torch.get_num_threads()}
                print(json.dumps(about), file=answers, flush=True)
            if not sys.stdin.readline():
                os._exit(0)
            self.started = time.perf_counter()

        def on_train_batch_end(self, trainer: pl.Trainer, *batch: Any, **more: Any) -> None:
            if trainer.is_last_batch:  # before the epoch is saved
                self.took = time.perf_counter() - self.started

    with initialize_config_dir(str(CONF), version_base="1.3"):
        fixed = [
            "data.val_size=0",
            "trainer.max_epochs=100000",
            f"trainer.limit_train_batches={batches}",
            "logger=none",
        ]
        config = compose("train", [*words, *fixed, "trainer=cpu", "algo.schedule=constant"])
    OmegaConf.update(config, "paths.output_dir", "unused")
    chosen: Any = OmegaConf.to_container(config, resolve=True)
    plain_build = run.build_trainer
    run.build_trainer = lambda settings, callbacks, **parts: plain_build(  # type: ignore[assignment]
        settings, callbacks=[*callbacks, InTurn()], **parts
    )
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        run.train(chosen, Path(folder), bar=False)


@contextmanager
def busy_process():
    """Keep one core busy meanwhile, as another training would."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def measure(case: str, repeats: int, batches: int | None) -> dict[str, Any]:
    """The seconds of each round of a case, by way and by surroundings."""
    what, words, usual = CASES[case]
    batches = batches or usual
    trainers = {way: Trainer.of_ours(words, batches, *how) for way, how in WAYS.items()}
    seconds: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    for surroundings in ("alone", "beside a busy process"):
        with busy_process() if surroundings != "alone" else nullcontext():
            rounds = [{way: trainer.seconds() for way, trainer in trainers.items()} for _ in range(repeats + 1)]
        for way in WAYS:
            seconds[way][surroundings] = [each[way] for each in rounds[1:]]
    about = {way: trainer.about for way, trainer in trainers.items()}
    for trainer in trainers.values():
        trainer.close()
    figures = {
        way: {name: summary(values, batches) for name, values in found.items()} for way, found in seconds.items()
    }
    return {"what": what, "words": words, "batches": batches, "about": about, "figures": figures}


def summary(seconds: list[float], batches: int) -> dict[str, float]:
    """Median, least and most milliseconds of a batch."""
    each = [1000 * value / batches for value in seconds]
    return {"median": statistics.median(each), "least": min(each), "most": max(each)}


def draw(results: dict[str, Any], path: Path) -> None:
    """Bars for each case, alone and beside a busy process, in multiples of one thread alone."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 0.9 + 0.95 * len(results)), sharey=True, layout="constrained")
    names = list(results)
    for axis, surroundings in zip(axes, ("alone", "beside a busy process"), strict=True):
        for number, way in enumerate(WAYS):
            for row, name in enumerate(names):
                figures = results[name]["figures"]
                unit = figures["1 thread"]["alone"]["median"]
                found = {key: value / unit for key, value in figures[way][surroundings].items()}
                spread = [[found["median"] - found["least"]], [found["most"] - found["median"]]]
                place = row + 0.24 * (number - 1)
                label = way if row == 0 else None
                axis.barh(place, found["median"], 0.22, color=COLOURS[number], label=label, xerr=spread)
                axis.annotate(f" {found['median']:.2f}", (found["most"], place), va="center", fontsize=8)
        axis.set_title(surroundings, loc="left")
        axis.set_xlabel("time of a batch, in that of one thread alone")
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(names)), [results[name]["what"].replace(", ", ",\n", 1) for name in names])
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="*", help=", ".join(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batches", type=int, help="of a round; each case has its own number")
    parser.add_argument("--out", type=Path, help="a JSON file; the picture lies beside it")
    arguments = parser.parse_args()
    there = json.loads(arguments.out.read_text())["cases"] if arguments.out and arguments.out.exists() else {}
    results = {name: there[name] for name in CASES if name in there}  # cases that are not measured now
    for case in arguments.case or CASES:
        if case not in CASES:
            parser.error(f"{case}: one of {', '.join(CASES)} expected")
        results[case] = measure(case, arguments.repeats, arguments.batches)
        for way, found in results[case]["figures"].items():
            figures = ", ".join(f"{name} {figure['median']:.2f} ms" for name, figure in found.items())
            print(f"{results[case]['what']}: {way}: {figures}", flush=True)
    about = machine() | {"repeats": arguments.repeats}
    if arguments.out:
        results = {name: results[name] for name in CASES if name in results}
        arguments.out.write_text(json.dumps({"about": about, "cases": results}, indent=1) + "\n")
        draw(results, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[3:], int(sys.argv[2]))
    else:
        main()
