"""How every learning rule answers and is measured."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ffbp.algorithms.means import EpochMeans
from ffbp.algorithms.step import Step
from ffbp.data import Batch
from ffbp.errors import NumericError
from ffbp.models import Stack

PREDICT_BATCH = 500
IN_PROGRESS_BAR = {f"{phase}/{what}" for phase in ("train", "val", "test") for what in ("loss", "acc")}


class Measured(pl.LightningModule):
    """A stack that can be asked and measured; how it is trained is the business of `Algorithm`."""

    readout: str | None = None  # which of `readouts` is the answer; None for the stack's own logits

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.stack = stack
        self.settings: dict[str, Any] = {}  # the run's own, kept in every checkpoint
        self.train_means, self.eval_means = EpochMeans(), EpochMeans()
        self.epoch_metrics: dict[str, Tensor] = {}  # what the last epoch came to, validation included

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the current hook on the module forty times a step, and nn.Module's own way is slow
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def readouts(self, images: Tensor) -> dict[str, Tensor]:
        """Classify `images` (B, C, H, W) in several ways: names and logits (B, classes); {} if there is only one."""
        return {}

    def answer(self, images: Tensor) -> Tensor:
        """The logits that count, shape (B, classes), for `images` (B, C, H, W)."""
        return self.stack(images) if self.readout is None else self.readouts(images)[self.readout]

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
        training = self.training
        self.eval()
        parts = torch.split(self.stack.as_input(images), PREDICT_BATCH)
        answers = [self.answer(part.to(self.device, torch.float32)) for part in parts]
        self.train(training)
        return torch.cat(answers).argmax(1).to(images.device)

    # -- measuring

    def record(self, step: Step, batch: Batch) -> None:
        """Add a training batch to the epoch's means: loss and accuracy of its logits, and its measures."""
        values = _loss_and_accuracy("train", step.logits.detach(), batch.labels)
        self.train_means.update({**values, **step.measures}, len(batch.labels))

    def check_finite(self) -> None:
        """Raise a NumericError if a recorded quantity has become NaN or infinite."""
        broken = self.train_means.broken()
        if not self.trainer.strategy.reduce_boolean_decision(bool(broken), all=False):
            return
        finite = [all(bool(p.isfinite().all()) for p in block.parameters()) for block in self.stack.blocks]
        layers = [f"layer {k}" for k, good in enumerate(finite) if not good]
        weights = f"; so are weights of {', '.join(layers)}" if layers else ""
        raise NumericError(
            f"step {self.global_step}, epoch {self.current_epoch + 1}: NaN or infinite "
            f"{', '.join(broken) or 'loss in another process'}{weights}. Resuming would end the same way: "
            f"take a smaller algo.optimizer.lr, or look closer with trainer.detect_anomaly=true."
        )

    def on_validation_epoch_start(self) -> None:
        self.eval_means.reset()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        self._log(self.eval_means.by_name())

    on_test_epoch_end = on_validation_epoch_end

    def _evaluate(self, phase: str, batch: Batch) -> None:
        readouts = self.readouts(batch.images)
        answer = (readouts[self.readout] if self.readout else self.answer(batch.images)).float()
        values = _loss_and_accuracy(phase, answer, batch.labels)
        values |= {f"{phase}/acc_{name}": accuracy(logits, batch.labels) for name, logits in readouts.items()}
        self.eval_means.update(values, len(batch.labels))

    def _log(self, means: Mapping[str, Tensor]) -> None:
        for name, value in means.items():
            self.log(name, value, prog_bar=name in IN_PROGRESS_BAR)
        self.epoch_metrics |= means

    # -- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ffbp"] = self.settings
        checkpoint["train_means"] = self.train_means.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.global_rank == 0:  # they are those of all processes together
            self.train_means.load_state(checkpoint["train_means"], self.device)


def _loss_and_accuracy(phase: str, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {f"{phase}/loss": cross_entropy(logits, labels), f"{phase}/acc": accuracy(logits, labels)}


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of rows of `logits` (B, classes) that are largest at their label (B,)."""
    return (logits.argmax(1) == labels).float().mean()
