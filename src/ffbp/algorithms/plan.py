"""Which layer learns when, and for what share of the training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
from torch import nn

from ffbp.algorithms.base import endless
from ffbp.algorithms.optimizers import rates_and_decays
from ffbp.errors import ConfigError
from ffbp.settings import HeadSettings, OptimizerSettings


@dataclass(frozen=True)
class Plan:
    """Say who learns now, from how much of the training has passed: there is no state to save.

    Throughout, `layer` is the number of a layer, from 0, or None for the softmax head, and `elapsed` is the share of
    the training that has passed, in [0, 1].
    """

    depth: int  # how many layers there are
    order: Literal["simultaneous", "sequential"]  # all learn from every batch, or in turn for equal shares of the time
    readout_share: float  # of the training, at its end, in which only the softmax head learns; 0 if it always learns

    def progress(self, layer: int | None, elapsed: float) -> float:
        """How far a layer is through its own share: below 0 before it, in [0, 1) during it, 1 or more after it."""
        layers_share = 1 - self.readout_share
        if layer is None:
            return (elapsed - layers_share) / self.readout_share if self.readout_share else elapsed
        if self.order == "sequential":
            return elapsed / layers_share * self.depth - layer
        return elapsed / layers_share

    def learns(self, layer: int | None, elapsed: float) -> bool:
        """Whether a layer, or the softmax head, learns now."""
        return 0 <= self.progress(layer, elapsed) < 1

    def passed(self, layer: int | None, elapsed: float) -> float:
        """How much of its own share a layer has behind it, in [0, 1], for the schedule of its learning rate."""
        return min(1.0, max(0.0, self.progress(layer, elapsed)))

    def check_trainer(self, trainer: pl.Trainer) -> None:
        """Reject a training with no end to divide it by, or with fewer epochs than layers that learn in turn."""
        if endless(trainer) and (self.order == "sequential" or self.readout_share):
            raise ConfigError(
                "algo.order=sequential and algo.readout_share need an end: set trainer.max_epochs or max_steps."
            )
        epochs = trainer.max_epochs
        if self.order == "sequential" and epochs is not None and 0 < epochs < self.depth:
            raise ConfigError(f"trainer.max_epochs={epochs}: {self.depth} or more expected, an epoch for each layer.")


def parameter_groups(
    optimizer: OptimizerSettings | None,
    head_settings: HeadSettings,
    layers: Sequence[list[nn.Parameter]],
    head: list[nn.Parameter],
) -> list[dict[str, Any]]:
    """Groups for the optimizer, one for each layer and one for the head, with rates of their own; `layer` says which.

    Args:
        optimizer: its `lr` and its `weight_decay` are each one number, or a list with one for each layer.
        head_settings: learning rate and weight decay of the head.
        layers: the parameters of each, first to last.
        head: the parameters of the head.

    Raises:
        ConfigError: if a list is not as long as there are layers.
    """
    assert optimizer is not None
    own = rates_and_decays(optimizer, len(layers), "one for each layer")
    groups: list[dict[str, Any]] = [
        {"name": f"layer_{k}", "layer": k, "params": parameters, **each}
        for k, (parameters, each) in enumerate(zip(layers, own, strict=True))
    ]
    of_head = {"name": "head", "layer": None, "params": head}
    return [*groups, of_head | {"lr": head_settings.lr, "weight_decay": head_settings.weight_decay}]
