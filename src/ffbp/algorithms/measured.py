"""How every learning rule is measured."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from ffbp.algorithms.answering import Answering
from ffbp.algorithms.means import EpochMeans
from ffbp.algorithms.step import Step
from ffbp.data import Batch
from ffbp.errors import NumericError
from ffbp.models import Stack

IN_PROGRESS_BAR = {f"{phase}/{what}" for phase in ("train", "val", "test") for what in ("loss", "acc")}


class Measured(Answering):
    """A stack that can be asked and measured; how it is trained is the business of `Algorithm`."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self.train_means, self.eval_means = EpochMeans(), EpochMeans()
        self.epoch_metrics: dict[str, Tensor] = {}  # what the last epoch came to, validation included
        self.infinite_from_the_start: list[str] = []  # meant to be, such as a mask

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the current hook on the module forty times a step, and nn.Module's own way is slow
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    # -- measuring

    def record(self, step: Step, batch: Batch) -> None:
        """Add a training batch to the epoch's means: loss and accuracy of its logits, and its measures."""
        known = "train/acc" in step.measures
        values = {} if known else loss_and_accuracy("train", step.logits.detach().float(), batch.labels)
        self.train_means.update({**values, **step.measures}, batch.counted)

    def check_finite(self) -> None:
        """Raise a NumericError if a recorded quantity, or anything that a checkpoint would keep, is NaN or infinite."""
        self._require_finite(self.train_means.broken(), self.broken_parts())

    def check_means(self) -> None:
        """Raise a NumericError if a recorded quantity is NaN or infinite; it looks at a few numbers only."""
        self._require_finite(self.train_means.broken())

    def broken_parts(self) -> list[str]:
        """Where weights, buffers or what the optimizer remembers are NaN or infinite, but were not from the start."""
        names: dict[Tensor, str] = {parameter: name for name, parameter in self.named_parameters()}
        kept = [*self.named_parameters(), *self.named_buffers()]
        for optimizer in self.trainer.optimizers:
            for parameter, state in optimizer.state.items():
                kept += [(f"{key} of {names[parameter]}", value) for key, value in state.items()]
        broken = [name for name, value in kept if isinstance(value, Tensor) and not bool(value.isfinite().all())]
        layers = [re.sub(r"stack\.blocks\.(\d+)\..*", r"layer \1", name) for name in broken]
        return [name for name in dict.fromkeys(layers) if name not in self.infinite_from_the_start]

    def _require_finite(self, quantities: Sequence[str], parts: Sequence[str] = ()) -> None:
        """Raise a NumericError in all processes if there are quantities or parts that are not finite in any of them."""
        if not self.trainer.strategy.reduce_boolean_decision(bool(quantities or parts), all=False):
            return
        parts = parts or self.broken_parts()
        named = [*quantities, *([f"values in {', '.join(parts)}"] if parts else [])]
        place = "test" if self.trainer.testing else f"step {self.global_step}, epoch {self.current_epoch + 1}"
        error = NumericError(
            f"{place}: NaN or infinite {', '.join(named) or 'loss in another process'}. Resuming would end the same "
            f"way: take a smaller algo.optimizer.lr, or look closer with trainer.detect_anomaly=true."
        )
        error.checkpoint_is_good = not self.trainer.testing
        raise error

    def on_validation_epoch_start(self) -> None:
        self.eval_means.reset()

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._evaluate("test", batch)

    def on_validation_epoch_end(self) -> None:
        means = self.eval_means.by_name()
        broken = [name for name, mean in means.items() if not mean.isfinite()]
        self._require_finite([*self.train_means.broken(), *broken])
        self._log(means)

    on_test_epoch_end = on_validation_epoch_end

    def _evaluate(self, phase: str, batch: Batch) -> Tensor:
        """Measure a batch, and return the answer's logits (B, classes), for callbacks."""
        readouts = self.readouts(batch.images)
        answer = (readouts[self.readout] if self.readout else self.answer(batch.images)).float()
        values = loss_and_accuracy(phase, answer, batch.labels)
        values |= {f"{phase}/acc_{name}": accuracy(logits, batch.labels) for name, logits in readouts.items()}
        self.eval_means.update(values, batch.counted)
        return answer

    def _log(self, means: Mapping[str, Tensor]) -> None:
        for name, value in means.items():
            self.log(name, value, prog_bar=name in IN_PROGRESS_BAR)
        self.epoch_metrics |= means

    # -- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ffbp"] = self.settings
        checkpoint["train_means"] = self.train_means.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # those of all processes, one after the other: each takes up its own, so that sums are added in the same order
        state, rank, world = checkpoint["train_means"], self.trainer.global_rank, self.trainer.world_size
        mine = slice(len(state) * rank // world, len(state) * (rank + 1) // world)
        self.train_means.load_state(state[mine], self.device)


def loss_and_accuracy(phase: str, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy and accuracy of `logits` (B, classes), called as in a phase, train, val or test."""
    return {f"{phase}/loss": cross_entropy(logits, labels), f"{phase}/acc": accuracy(logits, labels)}


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of rows of `logits` (B, classes) that are largest at their label (B,)."""
    return (logits.argmax(1) == labels).float().mean()
