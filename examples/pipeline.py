"""Forward-Forward with its layers on several processes: each trains some, and passes activities on to the next.

    torchrun --nproc-per-node=2 examples/pipeline.py algo.negatives=uniform model.widths=[2000,2000,2000,2000]

A layer learns from its own activity, so nothing comes back (no "backward lock"): while the second process is at one
batch, the first is at the next. Every layer passes on the activity that it had before its update at that batch, as in
one process, where the optimizer moves all layers at the end of a step. So the weights come out bit for bit as those of
`python train.py algo=ff ...`, for a given number of threads.

What is passed on: the activity on positives and negatives, (2B, D), that under the neutral label, (B, D), and what the
softmax head in the last process sees of the layers so far, (B, F). Labels are not: each process reads them itself.

Hard negatives are refused. They are drawn from the answer that the head, at the end of the pipeline, gives to the same
batch; the first layer would wait for it at each batch, and that is a lock: with an infinite number of processes, a step
would still take the time of the neutral pass through all layers. Dropout of hidden activities is refused, since its
random numbers come from one stream for all layers.
"""

import os
import sys
import time
from collections.abc import Iterator
from math import prod

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import Tensor, distributed
from torch.nn.functional import cross_entropy

from ffbp.algorithms import ForwardForward
from ffbp.algorithms.measured import accuracy
from ffbp.algorithms.optimizers import make_optimizer, schedule_gain
from ffbp.build import build, build_algorithm
from ffbp.cli.refusals import exit_code_of
from ffbp.data import Batch, MemoryData
from ffbp.errors import ConfigError
from ffbp.files import CONF
from ffbp.models.batch_norm import BatchNorm
from ffbp.settings import Settings, check_settings

AHEAD = 4
"""How many batches a process may be ahead of the next one: what it has sent stays in memory until it is taken."""


class Stage:
    """One process's part of a network.

    Args:
        settings: of a run of Forward-Forward, that `check_settings` has passed.
        data: what is trained on.
        rank, processes: which part this is, of how many; layers are dealt out evenly, in order.

    Raises:
        ConfigError: for what needs an answer from the processes behind, or fewer layers than processes.
    """

    def __init__(self, settings: Settings, data: MemoryData, rank: int, processes: int) -> None:
        torch.manual_seed(settings["seed"])
        rule = build_algorithm(settings["algo"], settings["model"], data.image_shape, data.classes)
        if not isinstance(rule, ForwardForward) or rule.contrast.kind == "hard":
            raise ConfigError(
                "algo.negatives=hard: a pipeline needs algo=ff and negatives that need no answer: uniform."
            )
        if settings["algo"]["label_embedding"] == "units":
            raise ConfigError("algo.label_embedding=units: in a pipeline only the first layer is shown labels.")
        if settings["model"].get("dropout") or rule.head.dropout.p:
            raise ConfigError("model.dropout, algo.head.dropout: not in a pipeline, see its docstring.")
        if rule.peers or any(isinstance(module, BatchNorm) for module in rule.modules()):  # which add up over processes
            raise ConfigError("algo.peer_normalization, model.batch_norm: not in a pipeline.")
        if rule.plan.order != "simultaneous" or rule.plan.readout_share:
            raise ConfigError("algo.order, algo.readout_share: in a pipeline all layers learn all the time.")
        depth = rule.plan.depth
        if processes > depth:
            raise ConfigError(f"model.widths: {processes} layers or more expected, one for each process.")
        self.rule, self.data, self.rank, self.processes = rule.train(), data, rank, processes
        self.owners = [k * processes // depth for k in range(depth)] + [processes - 1]  # of each layer, and of the head
        self.mine = [k for k in range(depth) if self.owners[k] == rank]
        self.last = rank == processes - 1
        groups = rule.parameter_groups()
        self.groups = [
            group | {"base_lr": group["lr"]} for group, owner in zip(groups, self.owners, strict=True) if owner == rank
        ]
        self.optimizer = make_optimizer(self.groups, rule.optimizer_settings)
        self.loader, self.epochs = data.train_dataloader(), settings["trainer"]["max_epochs"]
        self.under_way: list[tuple[distributed.Work, Tensor]] = []
        if rank:
            shapes, first = rule.stack.activity_shapes(), self.mine[0]
            versions = data.classes if rule.contrast.kind == "all" else 2  # positives and negatives of an image
            read = sum(prod(shapes[k]) for k in rule.readout_layers if k < first)
            self.received_shapes = [(versions, *shapes[first - 1]), (1, *shapes[first - 1]), (1, read)]  # for one image

    def train_epoch(self, epoch: int) -> None:
        """Take a step with each batch of an epoch."""
        self.loader.set_epoch(epoch)
        received = self._received() if self.rank else None
        for batch in self.loader:
            self.take_step(batch, next(received) if received else [])

    def take_step(self, batch: Batch, received: list[Tensor]) -> None:
        """Train this process's layers on a batch, given what the process before passed on, nothing in the first."""
        rule, passes, count = self.rule, self.rule.passes, len(batch.labels)
        rule.seed_modules(batch)
        _, epoch, number = batch.draws.key
        rule.elapsed = (epoch * len(self.loader) + number + 0.5) / (self.epochs * len(self.loader))
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * schedule_gain(rule.schedule, rule.progress(group, rule.elapsed))
        self.optimizer.zero_grad()
        shown, neutral, features = received or (batch.images, batch.images, batch.images.new_zeros(count, 0))
        if not self.rank:
            products = passes.first(batch.images)

        for k in self.mine:  # before any of them learns: what the head sees under the neutral label
            with torch.no_grad():
                mean_label = products.images + products.labels.sum(0) / rule.stack.classes if k == 0 else None
                neutral = rule.stack.blocks[k].after(passes.product(k, neutral) if k else mean_label)  # (B, D)
                if k in rule.readout_layers:
                    features = torch.cat([features, passes.seen_above(neutral).flatten(1)], 1)  # (B, F)
        if self.last:
            cross_entropy(rule.head(features), batch.labels).backward()
        for k in self.mine:
            no_logits = batch.images.new_zeros(count, rule.stack.classes)
            product = passes.product(k, shown) if k else rule.contrast(batch, products, no_logits, passes)[0]
            shown = rule.stack.blocks[k].after(product)  # ((1 + N) * B, D), positives first
            rule.layer_losses[k](shown, count)[0].backward()
        if not self.last:
            self._send([shown.detach(), neutral, features], number)
        self.optimizer.step()

    def _send(self, tensors: list[Tensor], number: int) -> None:
        """Pass tensors of a batch on, and wait for those sent long ago."""
        for part, tensor in enumerate(tensors):
            work = distributed.isend(tensor, self.rank + 1, tag=len(tensors) * number + part)
            self.under_way.append((work, tensor))
        while len(self.under_way) > len(tensors) * AHEAD:
            self.under_way.pop(0)[0].wait()

    def _received(self) -> Iterator[list[Tensor]]:
        """Give out what the process before passes on; the next batch is under way while this one is computed."""
        images, size = len(self.loader.labels), self.loader.batch_size
        asked: list[tuple[distributed.Work, Tensor]] = []
        for number in range(len(self.loader) + 1):
            arriving, asked = asked, []
            if number < len(self.loader):
                count = min(size, images - number * size)
                for part, (versions, *shape) in enumerate(self.received_shapes):
                    tensor = torch.empty(versions * count, *shape)
                    asked.append((distributed.irecv(tensor, self.rank - 1, tag=3 * number + part), tensor))
            for work, _ in arriving:
                work.wait()
            if number:
                yield [tensor for _, tensor in arriving]

    def share_weights(self) -> None:
        """Give every process the whole network."""
        for part, owner in zip([*self.rule.stack.blocks, self.rule.head], self.owners, strict=True):
            for tensor in part.state_dict().values():
                distributed.broadcast(tensor, owner)


def chosen_settings(words: list[str]) -> Settings:
    """The settings of a command line."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", ["algo=ff", *words, "trainer=cpu", "logger=none"])
    OmegaConf.update(config, "paths.output_dir", "unused")
    settings = OmegaConf.to_container(config, resolve=True)
    check_settings(settings)
    return settings


def main() -> None:
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # from torchrun
    settings = chosen_settings(sys.argv[1:])
    torch.set_num_threads(1 if settings["threads"] == "auto" else settings["threads"])
    data: MemoryData = build("data", settings["data"], seed=settings["seed"])
    stage = Stage(settings, data, rank, processes)
    os.environ.setdefault("MASTER_ADDR", "localhost")
    os.environ.setdefault("MASTER_PORT", "0")
    distributed.init_process_group("gloo", rank=rank, world_size=processes)
    distributed.barrier()
    started, worked = time.perf_counter(), time.process_time()
    for epoch in range(stage.epochs):
        stage.train_epoch(epoch)
    print(f"process {rank}: layers {stage.mine}, {time.process_time() - worked:.1f} s of computing", flush=True)
    distributed.barrier()
    seconds = time.perf_counter() - started
    stage.share_weights()
    if rank == 0:
        stage.rule.eval()
        right = sum(
            accuracy(stage.rule.answer(batch.images), batch.labels) * len(batch.labels)
            for batch in data.test_dataloader()
        )
        print(f"{seconds:.1f} s of training, {right / len(data.test.labels):.4f} of the test images right")
    distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(exit_code_of(main, debug=False))
