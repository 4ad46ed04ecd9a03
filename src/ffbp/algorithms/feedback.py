"""Random feedback: the error reaches each layer by a road of its own, not back through the layers above."""

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.step import Step
from ffbp.data import Batch
from ffbp.models import Stack
from ffbp.settings import checked


class Feedback(Algorithm):
    """Train each layer on the output error, brought to it by a fixed random matrix: direct feedback alignment.

    With the output error e = softmax(logits) - y, the error at layer l's activity is R_l e, where backpropagation has
    the product of e and all transposed weights above. Within the layer the chain rule holds as usual:
    delta_l = (R_l e) * f'(z_l), dW_l = delta_l h_{l-1}^T. On maps, R_l reaches every position. The head learns from e.

    Args:
        stack: what is trained.
        feedback: which road the error takes: dfa is direct feedback alignment.
        settings: `optimizer` and `schedule`, see `Algorithm`.

    Source: Nøkland 2016, arXiv:1609.01596.
    """

    roads: Tensor

    @checked
    def __init__(self, stack: Stack, *, feedback: Literal["dfa"], **settings: Any) -> None:
        super().__init__(stack, **settings)
        self.units = [math.prod(shape) for shape in stack.activity_shapes()]
        # the matrices R_l side by side; a buffer, so that a resumed run has the same ones
        self.register_buffer("roads", torch.randn(stack.classes, sum(self.units)) / math.sqrt(stack.classes))

    def step(self, batch: Batch) -> Step:
        activities = list(self.stack.activities(batch.images, local=True))  # each one's graph is that of its layer
        logits = self.stack.head(activities[-1].detach())  # (B, classes)
        error = (logits.detach().softmax(1) - one_hot(batch.labels, self.stack.classes)) / len(logits)
        roads = (error @ self.roads).split(self.units, 1)  # for each layer (B, units)
        errors = [road.view_as(activity).to(activity.dtype) for road, activity in zip(roads, activities, strict=True)]
        parameters = list(self.parameters())
        gradients = torch.autograd.grad([*activities, logits], parameters, [*errors, error.to(logits.dtype)])
        return Step(logits, gradients=dict(zip(parameters, gradients, strict=True)))
