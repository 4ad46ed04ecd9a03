"""Forward gradients: an unbiased guess of the gradient from one forward pass that carries a derivative along."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad as _forward_ad
from torch.func import functional_call, jvp
from torch.nn.functional import cross_entropy

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.step import Step
from ffbp.data import Batch
from ffbp.errors import ConfigError
from ffbp.models import Stack
from ffbp.models.batch_norm import BatchNorm
from ffbp.settings import checked

forward_ad: Any = _forward_ad  # which has no types


class ForwardGradient(Algorithm):
    """Move along a random direction v, by the loss's derivative along it: (grad L . v) v, with v ~ N(0, I).

    Its mean over v is the gradient; its variance grows with the number of random numbers. With weights, v has one for
    each parameter. With activities, one for each unit and image: the derivative of each image's loss by the products,
    guessed in this way, stands for the error in dW_l = error h_{l-1}^T, and there are far fewer units than weights.

    Args:
        stack: what is trained.
        perturb: what is moved along v.
        settings: `optimizer` and `schedule`, see `Algorithm`.

    Raises:
        ConfigError: for batch norm, through which an image's products change the losses of others.

    Source: Baydin et al. 2022, arXiv:2202.08587; activities: Ren et al. 2023, arXiv:2210.03310.
    """

    calls_whole_layers = False

    @checked
    def __init__(self, stack: Stack, *, perturb: Literal["weights", "activities"], **settings: Any) -> None:
        super().__init__(stack, **settings)
        self.perturb = perturb
        if any(isinstance(module, BatchNorm) for module in stack.modules()):
            raise ConfigError("algo=forward_gradient: not with batch norm; set model.batch_norm=false.")

    @torch.no_grad()
    def step(self, batch: Batch) -> Step:
        return self._by_weights(batch) if self.perturb == "weights" else self._by_activities(batch)

    def _by_weights(self, batch: Batch) -> Step:
        weights = dict(self.stack.named_parameters())
        direction = {name: torch.randn_like(weight) for name, weight in weights.items()}

        def loss(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            logits = functional_call(self.stack, weights, (batch.images,))
            return cross_entropy(logits, batch.labels), logits

        _, slope, logits = jvp(loss, (weights,), (direction,), has_aux=True)  # type: ignore[misc]
        return Step(logits, gradients={weight: slope * direction[name] for name, weight in weights.items()})

    def _by_activities(self, batch: Batch) -> Step:
        blocks, inputs, directions = [*self.stack.blocks, self.stack.head], [], []
        with forward_ad.dual_level():
            activity = batch.images
            for block in blocks:
                below = block.dropout(activity)
                product, change = forward_ad.unpack_dual(block.product(below))
                v = torch.randn_like(product)
                activity = block.after(forward_ad.make_dual(product, v.clone() if change is None else v + change))
                inputs.append(forward_ad.unpack_dual(below).primal)
                directions.append(v)
            losses = cross_entropy(activity, batch.labels, reduction="none")
            logits, slopes = forward_ad.unpack_dual(activity).primal, forward_ad.unpack_dual(losses).tangent  # (B,)
        gradients: dict[nn.Parameter, Tensor] = {}
        for block, below, v in zip(blocks, inputs, directions, strict=True):
            gradients |= block.pull(below, slopes.view(-1, *[1] * (v.dim() - 1)) * v / len(slopes))
        return Step(logits, gradients=gradients)
