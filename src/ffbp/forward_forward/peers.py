"""Peer normalisation: no unit of a layer may be much busier, or much idler, than its peers."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


class PeerNormalization(nn.Module):
    """Pull the running mean activity of each unit towards that of its layer.

    Hinton adds weight * (mean of all units - mean of this one) to the gradient that climbs the goodness, at every
    unit's product with its input, whether the unit is active or not: so a silent one comes to life again. The public
    PyTorch port minimises weight * mean over units of (mean of all - mean of this one)^2 instead, whose gradient at
    the same place is 2 (1 - momentum) / units times as large.

    Args:
        shape: of the units of one layer: (D,), (C, 1, 1) where positions share weights, (C, H, W) where not.
        form: Hinton's or the port's.
        weight: of the term.
        momentum: of the running means, in [0, 1).

    Source: Hinton 2022, section 3.2, his Matlab code, and github.com/loeweX/Forward-Forward.
    """

    means: Tensor

    def __init__(self, shape: Sequence[int], form: Literal["hinton", "port"], weight: float, momentum: float) -> None:
        super().__init__()
        self.register_buffer("means", torch.full(tuple(shape), 0.5))
        self.momentum = momentum
        self.strength = weight * (1.0 if form == "hinton" else 2 * (1 - momentum) / self.means.numel())

    def forward(self, drive: Tensor, activity: Tensor) -> Tensor:
        """Take in a batch's mean activity, and give the term for the loss.

        Args:
            drive: the units' products on positives, mean over the batch, in front of the nonlinearity.
            activity: the units' activities on positives, mean over the batch; both in the shape of the layer, or
                with positions where these share weights.

        Returns:
            a scalar; its gradient is what counts, its value means nothing.
        """
        with torch.no_grad():
            shared = [dim for dim, size in enumerate(self.means.shape) if size == 1]
            seen = activity.float().mean(shared, keepdim=True) if shared else activity.float()
            self.means.lerp_(seen, 1 - self.momentum)
            pull = self.means - self.means.mean()
        return self.strength * (drive * pull).sum()
