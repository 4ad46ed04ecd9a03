"""What a learning rule returns for a batch."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Step(NamedTuple):
    """What a learning rule makes of a batch.

    A rule with a loss returns that loss. A rule without one returns gradients in its place, which are written to
    `.grad`, so that optimizer, schedule, weight decay, clipping, accumulation and several processes work as with a
    loss. A rule that has moved its parameters itself returns neither.

    Attributes:
        logits: of the read-out that is trained, shape (B, classes): train/loss and train/acc come from them.
        loss: what is differentiated, a scalar, the mean over the batch; local losses are added up.
        measures: further scalars to log, by name: means over the batch, averaged over the epoch. A rule whose step is
            compiled as a whole puts train/loss and train/acc there too.
        gradients: by parameter, in its shape, the mean over the batch.
    """

    logits: Tensor
    loss: Tensor | None = None
    measures: Mapping[str, Tensor] = MappingProxyType({})
    gradients: Mapping[nn.Parameter, Tensor] = MappingProxyType({})


class WholeStep(nn.Module):
    """A function of a batch's tensors as a module, so that all that a rule computes for a batch is compiled as one."""

    def __init__(self, compute: Callable[..., Any]) -> None:
        super().__init__()
        self.compute = compute

    @property
    def compiled(self) -> bool:
        """Whether `compile` has been called."""
        return self._compiled_call_impl is not None

    def forward(self, *inputs: Any) -> Any:
        return self.compute(*inputs)


MOST_KINDS = 256  # of batches that are compiled: by their size, by which layers learn, and for each layer


def compile_each_size(module: nn.Module) -> None:
    """Compile a module, for each size of batch by itself.

    Were one compiled for all sizes, its bits would depend on the sizes that came before, and so on where a run was
    resumed.
    """
    import torch._dynamo.config as dynamo  # here, since a run that compiles nothing need not load it

    # beyond the limit it would compute uncompiled, and round differently
    dynamo.recompile_limit, dynamo.fail_on_recompile_limit_hit = MOST_KINDS, True
    module.compile(dynamic=False)


class WrittenGradients(torch.autograd.Function):
    """A scalar whose gradient by each parameter is given: where a rule's gradients become `.grad`.

    Going through autograd, they are accumulated, scaled and exchanged between processes like those of any loss.
    """

    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return parameters[0].new_zeros(())

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        scaled = []
        while ctx.gradients:  # each one given up before the next is made, so that they are not in memory twice
            scaled.append(ctx.gradients.pop(0) * outer[0])
        return None, *scaled
