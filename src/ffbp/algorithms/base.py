"""What all learning rules share: how they are measured, how their parameters move, how they answer."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.nn import BatchNorm1d
from torch.nn.modules.batchnorm import _BatchNorm

from ffbp.algorithms.measured import Measured
from ffbp.algorithms.optimizers import RPROP, make_optimizer, rates_and_decays, schedule_gain
from ffbp.algorithms.step import Step, WrittenGradients, compile_each_size
from ffbp.data import Batch, MemoryData
from ffbp.data.draws import stream_seed
from ffbp.errors import ConfigError
from ffbp.models import Stack
from ffbp.settings import OptimizerSettings, Schedule, checked


class Algorithm(Measured):
    """A rule for training a stack.

    A rule says in `step` what it does with a batch; measuring, moving the parameters, checkpoints and several
    processes are handled here. By default all parameters form one group, and the answer is the stack's own.

    Args:
        stack: what is trained.
        optimizer: how parameters move along their gradients; None for a rule that moves them itself in `step`.
        schedule: how the learning rate changes over the training.
    """

    elapsed = 0.0  # how much of the training has passed, in [0, 1]
    calls_whole_layers = True  # False for a rule that takes its layers apart, so that there is nothing to compile
    against_16_bits = ""  # why a rule cannot do with a precision of 16 bits; empty for one that can

    @checked
    def __init__(self, stack: Stack, *, optimizer: OptimizerSettings | None, schedule: Schedule) -> None:
        super().__init__(stack)
        self.optimizer_settings, self.schedule = optimizer, schedule

    # -- what a rule says of itself

    def step(self, batch: Batch) -> Step:
        """Say what to do with a batch: a loss to differentiate, or gradients, see `Step`."""
        raise NotImplementedError(f"{type(self).__name__} has no step(batch)")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimizer: `name`, `params`, `lr`, and what differs from the common settings.

        There is one group for all, unless `lr` or `weight_decay` is a list: then one for each layer, and one for all
        that belongs to no layer, such as the head.

        Raises:
            ConfigError: if a list is not as long as there are groups.
        """
        settings = self.optimizer_settings
        assert settings is not None
        parts = {"all": list(self.parameters())}
        if isinstance(settings.lr, list) or isinstance(settings.weight_decay, list):
            parts = {f"layer_{k}": list(block.parameters()) for k, block in enumerate(self.stack.blocks)}
            of_layers = {id(parameter) for parameters in parts.values() for parameter in parameters}
            parts["head"] = [parameter for parameter in self.parameters() if id(parameter) not in of_layers]
        parts = {name: parameters for name, parameters in parts.items() if parameters}
        whose = "one for each layer" + (" and one for the head" if "head" in parts else "")
        own = rates_and_decays(settings, len(parts), whose)
        return [{"name": name, "params": parts[name], **each} for name, each in zip(parts, own, strict=True)]

    def progress(self, group: Mapping[str, Any], elapsed: float) -> float:
        """How far a parameter group is through its own training, in [0, 1], when `elapsed` of the whole has passed."""
        return elapsed

    def check_trainer(self, trainer: pl.Trainer) -> None:
        """Raise a ConfigError for a trainer that this rule cannot work with, before the run writes anything."""
        if endless(trainer) and self.schedule != "constant":
            raise ConfigError(f"algo.schedule={self.schedule}: needs a trainer.max_epochs or max_steps to end at.")
        if (settings := self.optimizer_settings) and self.schedule != "constant" and settings.name == RPROP:
            raise ConfigError(f"algo.schedule={self.schedule}: {RPROP} sets its own rates; set algo.schedule=constant.")
        if self.against_16_bits and trainer.precision not in ("32-true", "64-true"):
            raise ConfigError(
                f"trainer.precision={trainer.precision}: this rule {self.against_16_bits}; use 32-true or 64-true."
            )
        if self.optimizer_settings is None and trainer.world_size > 1:
            raise ConfigError("algo.optimizer=null: this rule moves its parameters itself, in one process only.")
        moves_itself = self.optimizer_settings is None or not self.automatic_optimization
        if moves_itself and (trainer.gradient_clip_val or trainer.accumulate_grad_batches > 1):
            raise ConfigError("trainer.gradient_clip_val and accumulate_grad_batches cannot be set with this rule.")

    def check_batches(self, trainer: pl.Trainer, data: MemoryData) -> None:
        """Raise a ConfigError for batches that the network cannot learn from, before the run writes anything."""
        count, limit = len(data.train.labels), trainer.limit_train_batches
        batches = -(-count // data.batch_size)
        reached = limit if isinstance(limit, int) else int(limit * batches)
        smallest = count % data.batch_size if reached >= batches else 0
        normalised = any(isinstance(norm, BatchNorm1d) for norm in self._batch_norms)
        if (smallest or data.batch_size) == 1 and normalised:
            raise ConfigError(
                f"data.batch_size={data.batch_size}: leaves a batch of one of {count} images, which batch norm cannot "
                f"learn from; choose another, or model.batch_norm=false."
            )

    def compile_parts(self) -> None:
        """Compile the modules that a training step and an answer call; a ConfigError if a step calls none."""
        if not self.calls_whole_layers:
            raise ConfigError(
                "compile=true: this rule takes its layers apart, and whole ones would be compiled; leave it out."
            )
        for module in filter(None, [*self.stack.blocks, self.stack.head]):
            compile_each_size(module)

    # -- for rules

    @contextmanager
    def second_pass(self, batch: Batch) -> Iterator[None]:
        """Run the stack once more on a batch: dropout drops the same, batch norm's running statistics stay put."""
        norms = self._batch_norms
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        self.seed_modules(batch)
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum

    @cached_property
    def _batch_norms(self) -> list[_BatchNorm]:
        return [module for module in self.modules() if isinstance(module, _BatchNorm)]

    def seed_modules(self, batch: Batch) -> None:
        """Seed the generator that modules such as dropout draw from, as a function of the batch alone."""
        cuda, index = self.device.type == "cuda", self.device.index or 0
        generator = torch.cuda.default_generators[index] if cuda else torch.default_generator
        generator.manual_seed(stream_seed(*batch.draws.key, self.global_rank))

    # -- training

    def configure_optimizers(self) -> torch.optim.Optimizer | None:
        if self.optimizer_settings is None:
            return None
        groups = self.parameter_groups()
        for group in groups:
            group["base_lr"] = group["lr"]
        return make_optimizer(groups, self.optimizer_settings)

    def on_train_start(self) -> None:
        self.total_batches = _total_batches(self.trainer)
        self.infinite_from_the_start = self.broken_parts()
        self.check_interval: int = max(1, self.trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def on_train_epoch_start(self) -> None:
        self.epoch_metrics = {}

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        self.seed_modules(batch)
        for norm in self._batch_norms:
            norm.stands_in = not batch.counted  # type: ignore[assignment]
        _, epoch, number = batch.draws.key
        self.elapsed = (epoch * self.trainer.num_training_batches + number + 0.5) / self.total_batches
        if self.optimizer_settings is not None:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = group["base_lr"] * schedule_gain(self.schedule, self.progress(group, self.elapsed))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        step = self.step(batch)
        if self.optimizer_settings is None and (step.gradients or (step.loss is not None and step.loss.requires_grad)):
            raise ConfigError("algo.optimizer=null: this rule needs an optimizer, which moves its parameters.")
        self.record(step, batch)
        if step.gradients:
            loss = cast(Tensor, WrittenGradients.apply(list(step.gradients.values()), *step.gradients))
        else:  # a rule that has moved its parameters itself leaves nothing to differentiate
            loss = batch.images.new_zeros(()) if step.loss is None else step.loss
        if not loss.requires_grad and self.trainer.world_size > 1:  # the others wait for the gradients of all
            parameter = next(parameter for parameter in self.parameters() if parameter.requires_grad)
            loss = cast(Tensor, WrittenGradients.apply([torch.zeros_like(parameter)], parameter))
        return loss * batch.loss_weight

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        if loss.requires_grad:
            torch.autograd.backward(loss, *args, **kwargs)

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: Any = None
    ) -> None:
        plugin = self.trainer.precision_plugin if gradient_clip_val else None
        if gradient_clip_val and isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            # Lightning refuses this for fused optimizers, which stand in the way only where gradients are scaled
            algorithm = gradient_clip_algorithm or GradClipAlgorithmType.NORM
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx % self.check_interval == 0:  # not after every batch: it waits for the device
            self.check_means()

    def on_train_epoch_end(self) -> None:
        self.check_means()
        self._log(self.train_means.by_name())
        self.train_means.reset()  # here and not at an epoch's start, which a run resumed within an epoch never sees


def _total_batches(trainer: pl.Trainer) -> float:
    """How many batches the training has, of which the last of an epoch may be too few to accumulate."""
    batches, accumulated, steps = (
        trainer.num_training_batches,
        trainer.accumulate_grad_batches,
        trainer.estimated_stepping_batches,
    )
    if steps == math.inf:
        return math.inf
    epochs, rest = divmod(steps, -(-batches // accumulated))
    return epochs * batches + min(rest * accumulated, batches)


def endless(trainer: pl.Trainer) -> bool:
    """Whether neither epochs nor steps end the training."""
    return trainer.max_epochs in (None, -1) and trainer.max_steps == -1
