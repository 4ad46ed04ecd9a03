"""Batch norm whose batch is that of all processes together."""

from typing import Any, cast

import torch
from torch import Tensor, distributed, nn


class BatchNorm(nn.BatchNorm1d):
    """Batch norm of units (B, D), or of maps (B, D, H, W) over their positions too.

    Where several processes share a batch, they come to the mean and variance of all of it.

    PyTorch's own SyncBatchNorm needs a GPU, and counts the copies with which processes stand in, see `Batch`.
    """

    stands_in = False  # whether this process's share of the current batch is such a copy, which then counts nothing

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and distributed.is_initialized()):
            return super().forward(x)
        rows = x.movedim(1, -1)  # (B, D) or (B, H, W, D)
        return self._over_processes(rows.flatten(0, -2)).view_as(rows).movedim(-1, 1)

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # maps are as good as units, and stay in the order of memory in which they come

    def _over_processes(self, x: Tensor) -> Tensor:
        x, given = x.to(self.weight.dtype), x.dtype
        own = 0.0 if self.stands_in else 1.0
        sums = sum_over_processes(torch.cat([x.sum(0), x.new_full((1,), len(x))]) * own)
        rows = sums[-1]  # of all processes
        mean = sums[:-1] / rows  # (D,)
        variance = sum_over_processes((x - mean).square().sum(0) * own) / rows  # (D,)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
            self.running_var.lerp_(variance * rows / (rows - 1), self.momentum)  # type: ignore[union-attr, arg-type]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return ((x - mean) * (variance + self.eps).rsqrt() * self.weight + self.bias).to(given)


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, mine: Tensor) -> Tensor:
        total = mine.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Tensor:
        return _SumOverProcesses.forward(ctx, outer[0].contiguous())  # every process's loss depends on every part


def sum_over_processes(mine: Tensor) -> Tensor:
    """Add up a tensor over all processes; its gradient is that of the sum of all processes' losses."""
    return cast(Tensor, _SumOverProcesses.apply(mine))
