"""Losses at the output of a network, by name."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

LossName = Literal["cross_entropy", "squared_error"]


def squared_error(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the batch of ||z - y||^2: outputs z (B, classes) are linear, labels y (B,) are taken one-hot."""
    return (logits - one_hot(labels, logits.shape[1]).to(logits.dtype)).square().sum(1).mean()


OUTPUT_LOSS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross_entropy": cross_entropy,
    "squared_error": squared_error,
}
"""From logits (B, classes) and labels (B,) to the mean loss over the batch."""


def output_error(name: LossName, logits: Tensor, labels: Tensor) -> Tensor:
    """The derivative of a loss by the logits, (B, classes): (p - y) / B, with p their softmax, or 2 (z - y) / B."""
    targets = one_hot(labels, logits.shape[1]).to(logits.dtype)
    error = logits.softmax(1) - targets if name == "cross_entropy" else 2 * (logits - targets)
    return error / len(logits)
