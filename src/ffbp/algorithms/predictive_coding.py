"""Predictive coding: activities settle between what is predicted from below and what is wanted above, then weights."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ffbp.algorithms.base import Algorithm
from ffbp.algorithms.step import Step
from ffbp.data import Batch
from ffbp.errors import ConfigError
from ffbp.models import Stack
from ffbp.settings import Count, Positive, checked


class PredictiveCoding(Algorithm):
    """Let the activities x_l descend an energy, then take one step of the weights down the same energy.

    E = 1/2 sum_l ||x_l - f(W_l x_{l-1})||^2 + beta C(W x_L, y), summed over the batch; x_0 is the image, and x_l starts
    at its prediction. Each gradient needs only the layer itself and its two neighbours. The gradients by the weights
    are divided by beta and by the batch's size: with converged steps and small beta they come to backpropagation's.

    Args:
        stack: what is trained.
        steps: of the activities, for each step of the weights; the label gets one layer further down with each.
        rate: of these steps. Where its product with the weights' squared norm is large, the activities overshoot.
        beta: how strongly the label pulls at the output.
        settings: `optimizer` and `schedule`, see `Algorithm`.

    Raises:
        ConfigError: if there are fewer steps than layers.

    Source: Whittington and Bogacz 2017, Neural Computation 29; Millidge et al. 2022, arXiv:2206.02629.
    """

    against_16_bits = "moves the activities by small steps"

    @checked
    def __init__(self, stack: Stack, *, steps: Count, rate: Positive, beta: Positive, **settings: Any) -> None:
        super().__init__(stack, **settings)
        self.steps, self.rate, self.beta = steps, rate, beta
        if steps < len(stack.blocks):
            depth = len(stack.blocks)
            raise ConfigError(f"algo.steps={steps}: too few for the label to reach the first of {depth} layers.")

    def step(self, batch: Batch) -> Step:
        with torch.no_grad():
            states = list(self.stack.activities(batch.images))
            logits = self.stack.head(states[-1])
        with self.second_pass(batch):
            first = states[0]  # no state lies below it, so what is predicted for it stays the same
            for _ in range(self.steps):
                states = [state.detach().requires_grad_() for state in states]
                energy = self.energy(batch, states, first) * bool(batch.counted)  # batch norm sends it to all processes
                pulls = torch.autograd.grad(energy, states)
                states = [state - self.rate * pull for state, pull in zip(states, pulls, strict=True)]
            loss = self.energy(batch, [state.detach() for state in states]) / (self.beta * len(logits))
        return Step(logits, loss, {"predictive_coding/energy": loss.detach() * self.beta})

    def energy(self, batch: Batch, states: list[Tensor], first: Tensor | None = None) -> Tensor:
        """E for the activities `states` of the layers, first to last; `first`: what is predicted for the first one."""
        self.seed_modules(batch)  # the same units are dropped in every step
        total = batch.images.new_zeros(())
        for k, (block, below, state) in enumerate(
            zip(self.stack.blocks, [batch.images, *states], states, strict=False)
        ):
            below = block.dropout(below)
            predicted = first if k == 0 and first is not None else block.after(block.product(below))
            total = total + (state - predicted).square().sum() / 2
        return total + self.beta * cross_entropy(self.stack.head(states[-1]), batch.labels, reduction="sum")
