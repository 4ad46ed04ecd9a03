"""How large each layer's gradient is, and which of its units are dead."""

from functools import partial
from typing import cast

import lightning.pytorch as pl
import torch
from torch import Tensor, distributed, nn

from ffbp.algorithms import Algorithm
from ffbp.algorithms.bp_explicit import KNOWN, backward
from ffbp.errors import ConfigError
from ffbp.models import Block
from ffbp.settings import Count, Share, checked


class GradientNorms(pl.Callback):
    """Measure the norm of each layer's gradient, and the share of its units that are dead.

    `gradients/layer_0/norm` and so on, and `gradients/head/norm`: the length of the gradient of all parameters of a
    layer, as the optimizer is given it but before clipping; the mean over the steps of an epoch that were looked at.
    A layer that a rule gives no gradient has none.

    `units/layer_0/dead` and so on: the share of units, in [0, 1], whose derivative f'(z) is next to nothing on every
    validation image, so that no image can change them by gradients. For relu that is a unit that is 0 on all of them;
    for sigmoid and tanh, one that is saturated on all of them. A unit of a convolution is a map: it is dead if it is so
    at every position. Where nothing is validated, this is not measured.

    It only observes: a run ends with the same bits with it and without it.

    Args:
        every_n_steps: how often the gradients are looked at.
        dead_below: a derivative below this share of the greatest (1 for relu and tanh, 1/4 for sigmoid) is next to
            nothing.

    Raises:
        ConfigError: at the start of a run whose rule has no gradients, whose gradients are scaled (16-mixed), or that
            compiles its layers, whose activities can then not be looked at.
    """

    @checked
    def __init__(self, every_n_steps: Count, dead_below: Share) -> None:
        self.every_n_steps, self.dead_below = every_n_steps, dead_below
        self.largest: dict[str, Tensor] = {}  # by layer, each unit's greatest derivative so far, shape (units,)
        self.hooks: list[torch.utils.hooks.RemovableHandle] = []

    def check_run(self, trainer: pl.Trainer, algorithm: Algorithm) -> None:
        """Raise a ConfigError for a run without gradients that can be looked at, before the run writes anything."""
        if algorithm.optimizer_settings is None:
            raise ConfigError("callbacks=gradients: this rule moves its parameters itself and has no gradients.")
        if trainer.precision == "16-mixed":
            raise ConfigError("callbacks=gradients: not with trainer.precision=16-mixed, which scales the gradients.")
        if any(module._compiled_call_impl is not None for module in algorithm.modules()):
            raise ConfigError("callbacks=gradients: not with compile=true, which hides the units.")

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            algorithm = cast(Algorithm, pl_module)
            head = cast(nn.Module, getattr(algorithm, "head", algorithm.stack.head))  # Forward-Forward has its own
            norms = {}
            for name, part in [*_layers(algorithm), ("head", head)]:
                gradients = [p.grad for p in part.parameters() if p.grad is not None] if part is not None else []
                if gradients:
                    # in doubles, since squares of small numbers are 0 otherwise
                    lengths = [torch.linalg.vector_norm(gradient, dtype=torch.double) for gradient in gradients]
                    norms[f"gradients/{name}/norm"] = torch.linalg.vector_norm(torch.stack(lengths))
            if norms:
                algorithm.train_means.update(norms, count=1)  # the same in all processes

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.largest = {}
        for name, block in _layers(cast(Algorithm, pl_module)):
            for module in (module for module in block.after if isinstance(module, KNOWN)):
                over = (0, 2, 3) if isinstance(block.affine, nn.Conv2d) else (0,)
                self.hooks.append(module.register_forward_hook(partial(self._look, name, over)))

    def _look(self, name: str, over: tuple[int, ...], module: nn.Module, _: object, activity: Tensor) -> None:
        made = activity.detach().float()  # (B, D) or (B, C, H, W)
        derivative = backward(module, made, made, torch.ones_like(made))
        most = derivative.amax(over).flatten()  # (units,)
        self.largest[name] = torch.maximum(most, self.largest.get(name, most))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        shares = {}
        for name, block in _layers(cast(Algorithm, pl_module)):
            if name in self.largest:
                largest = self.largest[name]
                if distributed.is_initialized():
                    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
                greatest = 0.25 if any(isinstance(module, nn.Sigmoid) for module in block.after) else 1.0
                shares[f"units/{name}/dead"] = (largest < self.dead_below * greatest).float().mean()
        if shares and not trainer.sanity_checking:
            cast(Algorithm, pl_module).eval_means.update(shares, count=1)


def _layers(algorithm: Algorithm) -> list[tuple[str, Block]]:
    return [(f"layer_{k}", block) for k, block in enumerate(algorithm.stack.blocks)]
