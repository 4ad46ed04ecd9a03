"""Memory against depth: the most that the activities of one training step take up, by rule and number of layers.

    python benchmarks/memory.py --out results/memory.json     # and results/memory.png; about a minute

Layers of 1000 units, a batch of 1000 images. Parameters, their gradients and the optimizer's state are left out: they
are the same for all. Counted are the tensors that operations make, each for as long as it is in use, see
`ffbp.callbacks.costs.Meter`; the figures are exact and do not depend on the machine.
"""

import argparse
import json
import math
from pathlib import Path

import matplotlib as mpl
import torch
from hydra import compose, initialize_config_dir
from machine import machine
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from omegaconf import OmegaConf
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint_sequential

from ffbp.algorithms import Algorithm
from ffbp.build import build_algorithm
from ffbp.callbacks.costs import Meter
from ffbp.data import Batch
from ffbp.data.draws import Draws
from ffbp.files import CONF
from ffbp.report.figures import COLORS, STYLE

UNITS, IMAGES = 1000, 1000
DEPTHS = (2, 4, 8, 16, 32, 64)


def algorithm(depth: int, *overrides: str) -> Algorithm:
    words = ["model=mlp", f"model.widths={[UNITS] * depth}".replace(" ", ""), *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", words)
    algo, model = (OmegaConf.to_container(config[group], resolve=True) for group in ("algo", "model"))
    return build_algorithm(algo, model, (1, 28, 28), 10)


def backprop(rule: Algorithm, batch: Batch) -> None:
    cross_entropy(rule.stack(batch.images), batch.labels).backward()


def checkpointed(rule: Algorithm, batch: Batch) -> None:
    """Keep the activities of every sqrt(depth)-th layer, and compute the others a second time on the way back."""
    blocks = rule.stack.blocks
    features = checkpoint_sequential(blocks, math.isqrt(len(blocks) - 1) + 1, batch.images, use_reentrant=False)
    cross_entropy(rule.stack.head(features), batch.labels).backward()


def layer_by_layer(rule: Algorithm, batch: Batch) -> None:
    """Step each layer, and free its graph, before the next one's is built: what `algo=ff` does."""
    for loss in rule.losses(batch):
        loss.backward()


def all_layers_at_once(rule: Algorithm, batch: Batch) -> None:
    """Add up the losses of all layers before going back."""
    torch.stack(list(rule.losses(batch))).sum().backward()


SIDES = {  # what a line of the picture is: the rule, and how it steps; LAST stands for the last layer's number
    "backprop": (("algo=bp",), backprop),
    "backprop, checkpointing": (("algo=bp",), checkpointed),
    "Forward-Forward, losses added up": (("algo=ff", "algo.readout_layers=[LAST]"), all_layers_at_once),
    "Forward-Forward, head on all layers": (("algo=ff",), layer_by_layer),
    "Forward-Forward, head on the last layer": (("algo=ff", "algo.readout_layers=[LAST]"), layer_by_layer),
}


def peak_mib(name: str, depth: int) -> float:
    """The most memory that what a step makes takes up at once, gradients of the parameters left out, in MiB."""
    words, step = SIDES[name]
    rule = algorithm(depth, *(word.replace("LAST", str(depth - 1)) for word in words))
    for parameter in rule.parameters():
        parameter.grad = torch.zeros_like(parameter)  # which are added to, so that they are not made in the step
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(IMAGES, 1, 28, 28, generator=generator), torch.arange(IMAGES) % 10
    batch = Batch(images, labels, Draws((0, 0, 0), IMAGES, slice(None), images.device))
    with Meter() as meter:
        step(rule, batch)
    return meter.peak / 2**20


def draw(figures: dict[str, dict[int, float]], path: Path) -> None:
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.subplots()
        for (name, found), color in zip(figures.items(), COLORS, strict=False):
            axes.plot(list(found), list(found.values()), "o-", color=color, label=name, markersize=4)
        axes.set(xscale="log", yscale="log", xlabel="layers of 1000 units", ylabel="MiB of a step, 1000 images")
        axes.set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.legend(frameon=False)
        figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/memory.json"))
    out = parser.parse_args().out
    figures = {name: {depth: round(peak_mib(name, depth), 2) for depth in DEPTHS} for name in SIDES}
    for name, found in figures.items():
        print(f"{name:40}", *(f"{value:8.1f}" for value in found.values()))
    about = machine() | {"unit": "MiB by number of layers"}
    out.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
    draw(figures, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
