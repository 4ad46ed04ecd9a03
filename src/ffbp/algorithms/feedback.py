"""Random feedback: the error reaches each layer by a road of its own, not back through the weights above."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.step import Step
from ffbp.data import Batch
from ffbp.models import Block, Stack
from ffbp.settings import checked


class Feedback(Algorithm):
    """Train each layer on an error that came down another road than the transposed weights above.

    The output error is e = softmax(logits) - y, and the head learns from it. Within a layer the chain rule holds:
    delta_l = (road_l) * f'(z_l), dW_l = delta_l h_{l-1}^T. What differs is the road to layer l's activity:

    - fa, feedback alignment: delta_{l+1} through a fixed random matrix in place of W_{l+1}^T.
    - sign, sign symmetry: through the signs of W_{l+1}^T, times the mean size of its entries.
    - dfa, direct feedback alignment: R_l e, straight from the top, R_l fixed and random.
    - drtp, direct random target projection: R_l y, no error at all.

    On maps, fa and sign replace the kernel with which an error goes back through a convolution, and R_l reaches every
    position.

    Args:
        stack: what is trained.
        feedback: which road the error takes.
        settings: `optimizer` and `schedule`, see `Algorithm`.

    Source: Lillicrap et al. 2016, Nature Communications 7; Liao et al. 2016, arXiv:1510.05067; Nøkland 2016,
    arXiv:1609.01596; Frenkel et al. 2021, arXiv:1909.01311.
    """

    roads: Tensor

    @checked
    def __init__(self, stack: Stack, *, feedback: Literal["fa", "sign", "dfa", "drtp"], **settings: Any) -> None:
        super().__init__(stack, **settings)
        self.feedback = feedback
        self.units = [math.prod(shape) for shape in stack.activity_shapes()]
        # buffers, so that a resumed run has the same ones
        if feedback in ("dfa", "drtp"):  # the matrices R_l side by side
            self.register_buffer("roads", torch.randn(stack.classes, sum(self.units)) / math.sqrt(stack.classes))
        if feedback == "fa":  # drawn as the weights are
            for k, block in enumerate(self._above()):
                fresh = torch.empty_like(block.affine.weight)
                self.register_buffer(f"road_{k}", fresh.uniform_(-1, 1) * block.affine.weight.detach().abs().max())

    def step(self, batch: Batch) -> Step:
        if self.feedback in ("dfa", "drtp"):
            return self._step_from_the_top(batch)
        activity = self.stack.blocks[0](batch.images)
        for k, block in enumerate(self._above()):
            below = block.dropout(activity)
            product = block.product(below.detach())
            activity = block.after(DownTheRoad.apply(product, below, self._road(k, block), block))
        loss = nn.functional.cross_entropy(activity, batch.labels)
        return Step(activity, loss)

    def _step_from_the_top(self, batch: Batch) -> Step:
        activities = list(self.stack.activities(batch.images, local=True))  # each one's graph is that of its layer
        logits = self.stack.head(activities[-1].detach())  # (B, classes)
        labels = one_hot(batch.labels, self.stack.classes)
        # with this process's share of the batch, since batch norm sends errors of one process to all
        share = batch.loss_weight
        error = (logits.detach().softmax(1) - labels) / len(logits) * share
        sent = error if self.feedback == "dfa" else labels.to(error.dtype) / len(logits) * share
        roads = (sent @ self.roads.to(sent.dtype)).split(self.units, 1)  # for each layer (B, units)
        errors = [road.view_as(activity).to(activity.dtype) for road, activity in zip(roads, activities, strict=True)]
        parameters = list(self.parameters())
        gradients = torch.autograd.grad([*activities, logits], parameters, [*errors, error.to(logits.dtype)])
        if share not in (0, 1):  # by which the written gradients will be multiplied
            gradients = tuple(gradient / share for gradient in gradients)
        return Step(logits, gradients=dict(zip(parameters, gradients, strict=True)))

    def _above(self) -> list[Block]:
        """The blocks that an error comes down through."""
        return [*self.stack.blocks[1:], self.stack.head]

    def _road(self, k: int, block: Block) -> Tensor:
        """What replaces the weight of the k-th block of `_above` on the way back."""
        if self.feedback == "fa":
            return self.get_buffer(f"road_{k}")
        weight = block.affine.weight.detach()
        return weight.sign() * weight.abs().mean()


class DownTheRoad(torch.autograd.Function):
    """A block's product as it is; its error goes on to the block's input as if `road` were the block's weight."""

    generate_vmap_rule = True  # for several seeds at once

    @staticmethod
    def forward(product: Tensor, below: Tensor, road: Tensor, block: Block) -> Tensor:
        return product.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, below, road, ctx.block = inputs
        ctx.shape = below.shape
        ctx.save_for_backward(road)

    @staticmethod
    def backward(ctx: Any, *errors: Tensor) -> tuple[Tensor | None, ...]:
        [error], [road] = errors, ctx.saved_tensors
        return error, ctx.block.send_back(error, ctx.shape, road), None, None
