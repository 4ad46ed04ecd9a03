"""Peer normalisation keeps any unit of a layer from being much more, or much less, active than the others."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, distributed, nn


class PeerNormalization(nn.Module):
    """Pull the running mean activity of each unit towards the mean over its layer.

    Hinton's form adds weight * (mean over all units - mean of this unit) to the gradient of the goodness with respect
    to each unit's product with its input, whether the unit is active or not, so that a silent unit can recover. The
    public PyTorch port minimises weight * mean over units of (mean over all units - mean of this unit)^2, whose
    gradient at the same place is 2 (1 - momentum) / units times as large.

    Args:
        shape: of one layer's units: (D,), (C, 1, 1) where all positions share weights, (C, H, W) where they do not.
        form: Hinton's or the port's.
        weight: of the term in the loss.
        momentum: of the running means, in [0, 1).

    Source: Hinton 2022, section 3.2, his Matlab code, and github.com/loeweX/Forward-Forward.
    """

    means: Tensor

    def __init__(self, shape: Sequence[int], form: Literal["hinton", "port"], weight: float, momentum: float) -> None:
        super().__init__()
        self.register_buffer("means", torch.full(tuple(shape), 0.5))
        self.momentum = momentum
        self.strength = weight * (1.0 if form == "hinton" else 2 * (1 - momentum) / self.means.numel())

    def forward(self, product: Tensor, activity: Tensor, loss_weight: float = 1.0) -> Tensor:
        """Update the running means with a batch's positives, and return the term for the loss.

        Args:
            product: of weights and input, before the nonlinearity, averaged over the batch, (D,) or (C, H, W).
            activity: the layer's activity, shape (B, D) or (B, C, H, W).
            loss_weight: of this process's part of the batch, see `Batch`; the running means are over all processes.

        Returns:
            a scalar; only its gradient matters.
        """
        with torch.no_grad():
            mean = activity.to(self.means.dtype).mean(0)
            if distributed.is_initialized():
                distributed.all_reduce(mean.mul_(loss_weight / distributed.get_world_size()))
            shared = [dim for dim, size in enumerate(self.means.shape) if size == 1]
            self.means.lerp_(mean.mean(shared, keepdim=True) if shared else mean, 1 - self.momentum)
            pull = self.means - self.means.mean()
        return self.strength * (product * pull).sum()
