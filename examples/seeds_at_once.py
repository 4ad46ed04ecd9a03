"""Several seeds of one network trained at once: their weights are stacked, and a batch of each takes one step together.

    python examples/seeds_at_once.py experiment=paper_ff seeds=0,1,2,3,4 > paper_ff.json    # the words of train.py
    python examples/seeds_at_once.py algo=bp model=mlp data=digits seeds=0,1,2,3,4,5,6,7

The rule is the framework's own: torch.func.vmap runs its losses over stacked weights, which makes a product of matrices
a batch of products (torch.bmm), and one optimizer moves the stack. Each seed has the initial weights, the order of
images, the negatives and the dropout of the run that `python train.py ... seed=` makes of it, and ends with its weights
but for rounding. The epoch with the highest validation accuracy is tested, as there. There are no run directories: what
is broken off begins anew. Of trainer=, only max_epochs and accelerator count.
"""

import json
import re
import statistics
import sys
import time
import warnings
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from ffbp.algorithms import Algorithm, ForwardForward
from ffbp.algorithms.forward_forward.contrast import WITHOUT_LABELS
from ffbp.algorithms.measured import accuracy
from ffbp.algorithms.optimizers import make_optimizer, schedule_gain
from ffbp.algorithms.predictive_coding import PredictiveCoding
from ffbp.build import build, build_algorithm
from ffbp.cli.refusals import exit_code_of
from ffbp.data import Batch, Batches, MemoryData
from ffbp.data.draws import Draws
from ffbp.data.sources import Labelled
from ffbp.errors import ConfigError
from ffbp.files import CONF
from ffbp.lifecycle.threads import automatic_threads, usable_cores
from ffbp.settings import Settings, check_settings


class NotedDraws(Draws):
    """A batch's random numbers, with a note of the shapes that a rule asks for."""

    def __init__(self, *about: Any) -> None:
        super().__init__(*about)
        self.shapes: list[tuple[int, ...]] = []

    def uniform(self, *shape: int) -> Tensor:  # (B, *shape)
        self.shapes.append(shape)
        return super().uniform(*shape)


class DrawnBefore:
    """Random numbers that were drawn before, given out in the order in which a rule asks for them."""

    def __init__(self, numbers: Sequence[Tensor]) -> None:
        self.numbers = iter(numbers)

    def uniform(self, *shape: int) -> Tensor:  # (B, *shape)
        return next(self.numbers)


def loss_of(rule: Algorithm, images: Tensor, labels: Tensor, draws: Any) -> Tensor:
    """The loss of one seed's batch, a scalar; local losses are added up."""
    batch = Batch(images, labels, draws)
    if isinstance(rule, ForwardForward):
        return torch.stack(list(rule.losses(batch))).sum()
    loss = None if isinstance(rule, PredictiveCoding) else rule.step(batch).loss  # which seeds its modules in each step
    if loss is None:
        raise ConfigError("algo: a rule with a loss expected, to train several seeds at once.")
    return loss


class SeedsAtOnce:
    """Train one network from several seeds.

    Args:
        settings: of a run, that `check_settings` has passed; its `seed` is not used.
        data: what is trained on.
        seeds: one for each copy of the network.

    Raises:
        ConfigError: for a rule without a loss, and for dropout of hidden activities, whose random numbers are drawn
            within the step and would not be those of the single runs.
    """

    def __init__(self, settings: Settings, data: MemoryData, seeds: Sequence[int], device: str = "cpu") -> None:
        self.device, self.epochs = device, settings["trainer"]["max_epochs"]
        self.rules: list[Algorithm] = []  # one for each seed; its weights are views of the stacked ones
        for seed in seeds:
            torch.manual_seed(seed)
            rule = build_algorithm(settings["algo"], settings["model"], data.image_shape, data.classes)
            self.rules.append(rule.to(device))
        order = {"batch_size": data.batch_size, "shuffle": True, "shift": data.shift}
        self.loaders = [self.loader(data.train, **order, seed=seed) for seed in seeds]
        for loader in self.loaders:
            loader.images = self.loaders[0].images  # which all read

        self.rule = self.rules[0]
        first = self.rule.stack.blocks[0]
        self.input_dropout, first.dropout = first.dropout, nn.Dropout(0.0)  # it is done beforehand, see `take_step`
        if any(isinstance(part, nn.Dropout) and part.p for part in self.rule.modules()):
            raise ConfigError("model.dropout: with several seeds at once, only input_dropout is possible.")
        if self.input_dropout.p and settings["algo"].get("negatives") in WITHOUT_LABELS:  # dropped after mixing
            raise ConfigError("model.input_dropout: with several seeds at once, not for negatives without labels.")
        self.rule.record = lambda *measured: None  # it adds up numbers of one run
        labels, two = self.loaders[0].labels[:2], slice(0, 2)
        images = self.loaders[0].images.take(torch.arange(2, device=device))  # (2, C, H, W)
        self.noted = NotedDraws((0, 0, 0), 2, two, labels.device)
        loss_of(deepcopy(self.rule), images, labels, self.noted)  # once on a copy, to learn what it draws
        self.rule.forward = partial(loss_of, self.rule)  # what `functional_call` calls, with the weights of one seed

        self.weights, self.buffers = stack_module_state(self.rules)  # by name, (S, ...) each
        stacked = self.weights | self.buffers
        for number, rule in enumerate(self.rules):
            for name, tensor in [*rule.named_parameters(), *rule.named_buffers()]:
                tensor.data = stacked[name].detach()[number]
        groups = self.rule.parameter_groups()
        names = {parameter: name for name, parameter in self.rule.named_parameters()}
        for group in groups:
            group |= {"params": [stacked[names[one]] for one in group["params"]], "base_lr": group["lr"]}
        self.optimizer = make_optimizer(groups, self.rule.optimizer_settings)

    def loader(self, part: Labelled, batch_size: int = 1000, **options: Any) -> Batches:
        """Deal out images on the device that trains."""
        return Batches(part.images.to(self.device), part.labels.to(self.device), batch_size=batch_size, **options)

    def _dropped(self, batch: Batch) -> Tensor:
        """A batch's images after the dropout that the single run has: (B, C, H, W)."""
        self.rule.seed_modules(batch)
        return self.input_dropout(batch.images)

    def take_step(self, batches: Sequence[Batch]) -> Tensor:
        """Take a step with a batch of each seed, all of one size; returns the losses, (S,)."""
        _, epoch, number = batches[0].draws.key
        self.rule.elapsed = (epoch * len(self.loaders[0]) + number + 0.5) / (self.epochs * len(self.loaders[0]))
        for group in self.optimizer.param_groups:
            progress = self.rule.progress(group, self.rule.elapsed)
            group["lr"] = group["base_lr"] * schedule_gain(self.rule.schedule, progress)
        images = torch.stack([self._dropped(batch) for batch in batches])  # (S, B, C, H, W)
        labels = torch.stack([batch.labels for batch in batches])  # (S, B)
        drawn = [torch.stack([batch.draws.uniform(*shape) for batch in batches]) for shape in self.noted.shapes]

        def loss(weights: dict[str, Tensor], buffers: dict[str, Tensor], *batch: Tensor) -> Tensor:
            images, labels, *numbers = batch
            return functional_call(self.rule, (weights, buffers), (images, labels, DrawnBefore(numbers)))

        losses = vmap(loss)(self.weights, self.buffers, images, labels, *drawn)  # (S,)
        self.optimizer.zero_grad()
        losses.sum().backward()  # each seed's loss depends on its own weights alone
        self.optimizer.step()
        return losses.detach()

    def train_epoch(self, epoch: int) -> None:
        """Take a step with each batch of an epoch."""
        for rule, loader in zip(self.rules, self.loaders, strict=True):
            rule.train()
            loader.set_epoch(epoch)
        for batches in zip(*self.loaders, strict=True):
            self.take_step(batches)

    @torch.no_grad()
    def accuracies(self, number: int, loader: Batches) -> dict[str, float]:
        """The accuracy of one seed's answers, and of each of its read-outs."""
        rule, right = self.rules[number].eval(), dict[str, Tensor]()
        for batch in loader:
            answers = {"acc": rule.answer(batch.images)}
            answers |= {f"acc_{name}": logits for name, logits in rule.readouts(batch.images).items()}
            for name, logits in answers.items():
                right[name] = right.get(name, 0) + accuracy(logits, batch.labels).double() * len(batch.labels)
        return {name: round(float(count) / len(loader.labels), 6) for name, count in right.items()}


def chosen_settings(words: Sequence[str]) -> Settings:
    """The settings of a command line; a ConfigError for those that would have no effect here."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs = [compose("train", [*words, "logger=none"]), compose("train", ["logger=none"])]
    for config in configs:
        OmegaConf.update(config, "paths.output_dir", "unused")
    chosen, usual = (OmegaConf.to_container(config, resolve=True) for config in configs)
    check_settings(chosen)
    for name, value in chosen["trainer"].items():
        if value != usual["trainer"][name] and name not in ("max_epochs", "accelerator"):
            raise ConfigError(f"trainer.{name}={value}: cannot be set with several seeds at once.")
    return chosen


def main() -> None:
    asked = [word.removeprefix("seeds=") for word in sys.argv[1:] if word.startswith("seeds=")] or ["0,1,2"]
    warnings.filterwarnings("ignore", message="There is a performance drop")  # of what vmap runs seed by seed
    words = [word for word in sys.argv[1:] if not word.startswith("seeds=")]
    if not re.fullmatch(r"\d{1,9}(,\d{1,9})*", asked[-1]):
        raise ConfigError(f"seeds={asked[-1]}: whole numbers with commas between them expected.")
    seeds, settings = [int(seed) for seed in asked[-1].split(",")], chosen_settings(words)
    data: MemoryData = build("data", settings["data"], seed=0)
    on_gpu = torch.cuda.is_available() and settings["trainer"]["accelerator"] != "cpu"
    training = SeedsAtOnce(settings, data, seeds, "cuda" if on_gpu else "cpu")
    by_size = automatic_threads(training.rule.stack, len(seeds) * data.batch_size, usable_cores())
    torch.set_num_threads(by_size if settings["threads"] == "auto" else settings["threads"])

    val, test = (part and training.loader(part) for part in (data.val, data.test))
    found: list[dict[str, Any]] = [{"seed": seed, "val/acc": -1.0} for seed in seeds]
    seconds = 0.0
    for epoch in range(training.epochs):
        started = time.perf_counter()
        training.train_epoch(epoch)
        seconds += time.perf_counter() - started
        for number, best in enumerate(found):
            now = training.accuracies(number, val)["acc"] if val else None
            if now is None or now > best["val/acc"]:  # the first epoch of equals, as in a run
                tested = {f"test/{name}": value for name, value in training.accuracies(number, test).items()}
                best |= {"epoch": epoch + 1, "val/acc": now, **tested}
        reached = " ".join(f"{best['val/acc'] or 0:.4f}" for best in found)
        print(f"epoch {epoch + 1}: {seconds:.0f} s, best validation accuracies {reached}", file=sys.stderr)
    accuracies = [best["test/acc"] for best in found]
    spread = {"mean": statistics.mean(accuracies), "deviation": statistics.stdev(accuracies) if seeds[1:] else 0.0}
    about = {"words": words, "train_seconds": round(seconds, 1), "threads": torch.get_num_threads()}
    print(json.dumps({**about, "test/acc": spread, "seeds": found}, indent=1))


if __name__ == "__main__":
    sys.exit(exit_code_of(main, debug=False))
