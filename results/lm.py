"""Levenberg-Marquardt beside Adam and SGD on digits, with the same squared error: results/lm.json and lm.png.

FFBP_DATA_DIR=... python results/lm.py

Each rule has six settings to choose from, by the training squared error after its last epoch with seed 0; the best one
is then trained with seeds 1 and 2 as well. The figure's seconds are those of the processor, a step's mean times the
steps: other work on the machine leaves them alone. What lies in logs/results already is not trained again.
"""

import json
import subprocess
import sys
from itertools import accumulate
from pathlib import Path
from statistics import fmean, stdev
from time import process_time

import matplotlib as mpl
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from recorded import recorded

from ffbp.build import build_algorithm
from ffbp.data import Batches, sources
from ffbp.report.figures import COLORS, STYLE
from ffbp.report.runs import Run, read_runs

ROOT, ERROR = Path(__file__).parents[1], "train/squared_error"
NETWORK = ["data=digits", "model=mlp", "model.widths=[32]", "model.activation=tanh", "logger=none", "trainer=cpu"]
BP = ["algo=bp", "algo.loss=squared_error", "trainer.max_epochs=50"]
RULES = {  # its words, the setting that is searched, and its values
    "Levenberg-Marquardt": (
        ["algo=lm", "trainer.max_epochs=20"],
        "algo.least_damping",
        ("0.01", "0.02", "0.05", "0.1", "0.2", "0.5"),
    ),
    "Adam": ([*BP, "algo.optimizer.name=adam"], "algo.optimizer.lr", ("5e-4", "1e-3", "2e-3", "5e-3", "1e-2", "2e-2")),
    "SGD": ([*BP, "algo.optimizer.name=sgd"], "algo.optimizer.lr", ("1e-3", "3e-3", "1e-2", "2e-2", "3e-2", "5e-2")),
}


def train(rule: str, values: str, seeds: str) -> list[Run]:
    """Train a rule with each of the values and seeds, unless that was done before."""
    words, name, _ = RULES[rule]
    into = ROOT / "logs" / "results" / f"lm_{rule}_seeds_{seeds}".lower().replace(",", "_")
    if not (into / "sweep.json").is_file():
        command = [sys.executable, "train.py", "-m", *words, *NETWORK, f"{name}={values}", f"seed={seeds}"]
        done = subprocess.run([*command, f"hydra.sweep.dir={into}"], cwd=ROOT, check=False, capture_output=True)
        if done.returncode not in (0, 5):  # a learning rate that is too high ends in NaN
            raise RuntimeError(done.stderr.decode())
    return read_runs(into)


def reached(run: Run, error: float) -> tuple[int, float] | None:
    """After how many steps and seconds of training, counted in whole epochs, a run first has a squared error."""
    seconds = accumulate(run.history["time/epoch_seconds"])
    rows = zip(run.history["step"], seconds, run.history[ERROR], strict=True)
    return next(((int(step), second) for step, second, found in rows if found <= error), None)


def cpu_seconds(runs: dict[str, list[Run]]) -> dict[str, float]:
    """Seconds of the processor for a training step of each rule, taking turns: they do not count who else uses it."""
    torch.set_num_threads(1)
    rules, spent = {}, dict.fromkeys(runs, 0.0)
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base="1.3"):
        for name, (run, *_) in runs.items():
            chosen = compose("train", overrides=run.overrides)
            parts = OmegaConf.to_container(OmegaConf.masked_copy(chosen, ["algo", "model"]), resolve=True)
            rule = build_algorithm(parts["algo"], parts["model"], (1, 28, 28), 10)
            rules[name] = rule, rule.configure_optimizers()
    images = sources.digits()[0]
    batches = Batches(images.images, images.labels, batch_size=50, shuffle=True)
    for batch in batches:
        for name, (rule, optimizer) in rules.items():
            rule.seed_modules = lambda batch: None  # it asks for a Trainer's device
            before = process_time()
            step = rule.step(batch)
            if optimizer is not None:
                optimizer.zero_grad()
                step.loss.backward()
                optimizer.step()
            spent[name] += process_time() - before
    return {name: round(seconds / len(batches), 6) for name, seconds in spent.items()}


def draw(groups: dict[str, list[Run]], target: float, processor: dict[str, float]) -> None:
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        by_step, by_second = figure.subplots(1, 2, sharey=True)
        for (rule, runs), color in zip(groups.items(), COLORS, strict=False):
            table = np.array([run.history[ERROR] for run in runs])  # (seeds, epochs)
            step = np.array(runs[0].history["step"])
            for axes, x in ((by_step, step), (by_second, step * processor[rule])):
                axes.plot(x, table.mean(0), color=color, linewidth=1.8, label=rule)
                axes.fill_between(x, table.min(0), table.max(0), color=color, alpha=0.15, linewidth=0)
        for axes in (by_step, by_second):
            axes.axhline(target, color="#6b7280", linewidth=1, linestyle=":")
            axes.set(xscale="log", yscale="log")
        by_step.set(xlabel="step (batch of 50 images)", ylabel="squared error on training images")
        by_second.set(xlabel="seconds of the processor")
        for axis in (by_step.xaxis, by_second.xaxis, by_step.yaxis):
            axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_locator(mpl.ticker.NullLocator())
        by_second.set_title(
            "dotted: Adam after 50 epochs   band: three seeds", loc="right", fontsize=9, color="#6b7280"
        )
        by_step.legend(frameon=False)
        figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


def main() -> None:
    searched, groups = {}, {}
    for rule, (_, name, values) in RULES.items():
        runs = train(rule, ",".join(values), "0")
        by_value = {word.partition("=")[2]: run for run in runs for word in run.overrides if word.startswith(name)}
        searched[rule] = {value: round(run.history[ERROR][-1], 5) for value, run in by_value.items()}
        best = min(searched[rule], key=searched[rule].__getitem__)
        groups[rule] = [by_value[best], *train(rule, best, "1,2")]
        print(rule, name, searched[rule], "best:", best)
    target = fmean(run.history[ERROR][-1] for run in groups["Adam"])
    times = {}
    for rule, runs in groups.items():
        found = [reached(run, target) for run in runs]
        times[rule] = {
            "squared_error_at_the_end": [round(run.history[ERROR][-1], 5) for run in runs],
            "steps_to_target": [each and each[0] for each in found],
            "seconds_to_target": [each and round(each[1], 2) for each in found],
            "seconds_a_step": round(fmean(r.metrics["time/train_seconds"] / r.history["step"][-1] for r in runs), 5),
            "test_accuracy": [round(fmean(accs := [r.metrics["test/acc"] for r in runs]), 4), round(stdev(accs), 4)],
        }
        print(rule, times[rule])
    processor = cpu_seconds(groups)
    print("processor seconds a step", processor)
    kept = [recorded(run, kinds=("step", ERROR)) for runs in groups.values() for run in runs]
    content = {
        "command": "python results/lm.py",
        "searched": searched,
        "target": target,
        "reached": times,
        "processor_seconds_a_step": processor,
    }
    text = json.dumps(content | {"runs": kept}, separators=(",", ":")).replace('{"metrics"', '\n{"metrics"')
    Path(__file__).with_suffix(".json").write_text(text + "\n")
    draw(groups, target, processor)


if __name__ == "__main__":
    main()
