"""What all learning rules share: how they are measured, how their parameters move, how they are asked."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ffbp.algorithms.means import EpochMeans
from ffbp.algorithms.optimizers import make_optimizer, schedule_gain
from ffbp.data import Batch
from ffbp.data.draws import stream_seed
from ffbp.errors import ConfigError, NumericError
from ffbp.models import Stack
from ffbp.settings import OptimizerSettings, Schedule, checked

PREDICT_BATCH = 500


class Algorithm(pl.LightningModule):
    """A rule for training a stack.

    A rule says how it learns, in `training_step`, and what it answers, in `readouts`; the rest is here. By default all
    parameters are one group, and the answer is the stack's own.

    Attributes:
        readout: which of `readouts` is the answer.
        readout_names: all that `readouts` gives.

    Args:
        stack: what is trained.
        optimizer: how parameters move.
        schedule: how the learning rate changes over the training.
        measures: names that `training_step` records, beside train/loss and train/acc.
    """

    elapsed = 0.0  # how much of the training has passed, in [0, 1]
    parameters_rest = False  # whether some get no gradient from some batches; several processes must know
    readout = "logits"
    readout_names: tuple[str, ...] = ("logits",)

    @checked
    def __init__(
        self, stack: Stack, *, optimizer: OptimizerSettings, schedule: Schedule, measures: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.stack = stack
        self.optimizer_settings, self.schedule = optimizer, schedule
        self.settings: dict[str, Any] = {}  # the run's own, kept in every checkpoint
        self.train_means = EpochMeans(["train/loss", "train/acc"])
        self.measure_means = EpochMeans(measures)
        self.measured: dict[str, Tensor] = {}  # the means of the measures over the epoch that ended
        self.register_load_state_dict_pre_hook(_split_means)  # type: ignore[no-untyped-call]
        apart = [f"acc_{name}" for name in self.readout_names if name != "logits"]
        means = {p: EpochMeans([f"{p}/{what}" for what in ("loss", "acc", *apart)]) for p in ("val", "test")}
        self.eval_means = cast(dict[str, EpochMeans], nn.ModuleDict(means))

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the current hook on the module, forty times a step, and a module's own way is slow
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # -- what a rule may say of itself

    def readouts(self, images: Tensor) -> dict[str, Tensor]:
        """Each way to classify `images` (B, C, H, W): its name and its logits (B, classes)."""
        return {"logits": self.stack(images)}

    def answer(self, images: Tensor) -> Tensor:
        """The logits of the chosen read-out, shape (B, classes)."""
        return self.readouts(images)[self.readout]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups for the optimizer: `params`, and what differs from the common settings."""
        if isinstance(self.optimizer_settings.lr, list):
            raise ConfigError(
                f"algo.optimizer.lr={self.optimizer_settings.lr}: one number expected, this algorithm "
                f"trains all layers together."
            )
        return [{"name": "all", "params": list(self.parameters()), "lr": self.optimizer_settings.lr}]

    def progress(self, group: Mapping[str, Any], elapsed: float) -> float:
        """How far a parameter group is through its training, in [0, 1], when `elapsed` of the whole has passed."""
        return elapsed

    # -- asking

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Classify images.

        Args:
            images: shape (N, C, H, W), or (N, H, W) or (H, W) where there is one channel; uint8, or floats in [0, 1].

        Returns:
            classes, shape (N,), on the device of `images`.

        Raises:
            ValueError: if the shape or the range does not fit.
        """
        shape = self.stack.image_shape
        if images.dim() < 4 and shape[0] == 1:
            images = images.reshape(-1, 1, *images.shape[-2:])
        if tuple(images.shape[1:]) != shape:
            raise ValueError(f"images of shape (N, {', '.join(map(str, shape))}) expected, {tuple(images.shape)} found")
        if images.dtype == torch.uint8:
            images = images.float() / 255
        elif len(images) and not (images.min() >= 0 and images.max() <= 1):  # true for NaN as well
            raise ValueError("uint8 images, or floats in [0, 1] expected")
        training = self.training
        self.eval()
        parts = [
            self.answer(part.to(self.device, torch.float32)).argmax(1) for part in torch.split(images, PREDICT_BATCH)
        ]
        self.train(training)
        return torch.cat(parts).to(images.device) if parts else torch.empty(0, dtype=torch.long)

    # -- training

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = self.parameter_groups()
        for group in groups:
            group["base_lr"] = group["lr"]
        return make_optimizer(groups, self.optimizer_settings)

    def on_train_start(self) -> None:
        self.total_steps = self.trainer.estimated_stepping_batches
        if self.total_steps == float("inf") and self.schedule != "constant":
            raise ConfigError(f"algo.schedule={self.schedule}: needs a trainer.max_epochs or max_steps to end at.")
        self.generator = default_generator(self.device)
        self.check_interval: int = max(1, self.trainer.log_every_n_steps)  # type: ignore[attr-defined]

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # modules that draw from the global generator, such as dropout, draw the same after a resume
        self.generator.manual_seed(stream_seed(*batch.draws.key, self.global_rank))
        self.elapsed = (self.global_step + 0.5) / self.total_steps
        for group in self.trainer.optimizers[0].param_groups:
            group["lr"] = group["base_lr"] * schedule_gain(self.schedule, self.progress(group, self.elapsed))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if batch_idx % self.check_interval == 0:  # not at each: it waits for the device
            self.check_finite()

    def on_train_epoch_end(self) -> None:
        self.check_finite()
        self.measured = self.measure_means.by_name()
        self._log(self.train_means.by_name() | self.measured)
        for means in (self.train_means, self.measure_means):
            means.reset()  # here and not at an epoch's start, which a resumed run may not come by

    def record(self, logits: Tensor, labels: Tensor, loss: Tensor, measures: Sequence[Tensor] = ()) -> None:
        """Add a training batch to the epoch's means.

        Args:
            logits: the read-out's, shape (B, classes).
            labels: shape (B,).
            loss: their cross-entropy, a scalar.
            measures: further scalars, means over the batch, in the order of the names given to the constructor; or
                none at all, where this batch has none.
        """
        self.train_means.update([loss, accuracy(logits, labels)], len(labels))
        if measures:
            self.measure_means.update(measures, len(labels))

    def check_finite(self) -> None:
        """Stop if a recorded loss has become infinite or not a number.

        Raises:
            NumericError: with the step and the names of the measures.
        """
        broken = self.train_means.broken() + self.measure_means.broken()
        if not self.trainer.strategy.reduce_boolean_decision(bool(broken), all=False):
            return
        layers = [f"layer {k}" for k, block in enumerate(self.stack.blocks) if not _finite(block)]
        weights = f"; the weights of {', '.join(layers)} are not either" if layers else ""
        raise NumericError(
            f"step {self.global_step}, epoch {self.current_epoch + 1}: "
            f"{', '.join(broken) or 'a loss of another process'} not finite{weights}. A resumed run would come to the "
            f"same: take a smaller algo.optimizer.lr, or look closer with trainer.detect_anomaly=true."
        )

    # -- evaluation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_validation_epoch_start(self) -> None:
        self.eval_means["val"].reset()

    def on_test_epoch_start(self) -> None:
        self.eval_means["test"].reset()

    def on_validation_epoch_end(self) -> None:
        self._log(self.eval_means["val"].by_name())

    def on_test_epoch_end(self) -> None:
        self._log(self.eval_means["test"].by_name())

    def _log(self, means: Mapping[str, Tensor]) -> None:
        for name, value in means.items():
            self.log(name, value, prog_bar=name.endswith(("/loss", "/acc")) and not name.startswith("ff/"))

    def _evaluate(self, phase: str, batch: Batch) -> None:
        logits = self.readouts(batch.images)
        answer = logits[self.readout].float()
        values = [cross_entropy(answer, batch.labels), accuracy(answer, batch.labels)]
        values += [accuracy(logits[name], batch.labels) for name in self.readout_names if name != "logits"]
        self.eval_means[phase].update(values, len(batch.labels))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ffbp"] = self.settings


def _split_means(algorithm: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Up to format 2 a checkpoint had the sums of an epoch's measures between the others and the number of images."""
    sums = state.get(f"{prefix}train_means.sums")
    if sums is not None and f"{prefix}measure_means.sums" not in state:
        state[f"{prefix}train_means.sums"] = sums[[0, 1, -1]]
        state[f"{prefix}measure_means.sums"] = sums[2:]


def _finite(module: nn.Module) -> bool:
    return all(bool(parameter.isfinite().all()) for parameter in module.parameters())


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of rows of `logits` (B, classes) that are largest at their label (B,)."""
    return (logits.argmax(1) == labels).float().mean()


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that modules such as dropout draw from on `device`."""
    return torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
