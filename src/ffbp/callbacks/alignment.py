"""How close a rule comes to backpropagation: the cosine between their gradients, layer by layer."""

from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.overrides import TorchFunctionMode

from ffbp.algorithms import Algorithm
from ffbp.data import Batch
from ffbp.errors import ConfigError
from ffbp.lifecycle.record import off_the_clock
from ffbp.settings import Count, checked


class Alignment(pl.Callback):
    """Log, for each layer, the cosine between the gradient that the rule has written and backpropagation's.

    The rule's gradient is what the optimizer receives in `.grad`, before it is clipped. Backpropagation's is that of
    the cross-entropy of the rule's own answer on the same batch, for the same weights, and with the same units dropped
    where the answer is the pass that the rule trains, see `backprop_gradients`. Both are those of a layer's weight and
    bias, side by side. alignment/layer_0 and so on are means over those batches of an epoch that are looked at; layers
    that one of the two leaves alone are left out. The training does not notice, and the time is not counted in its own.

    Several processes compare the means of their gradients, which are the gradients of the whole batch.

    Args:
        every_n_steps: how often, counted in batches from the first one of the training.
    """

    @checked
    def __init__(self, every_n_steps: Count) -> None:
        self.every_n_steps = every_n_steps
        self._batch: Batch | None = None  # the one to look at

    def check_run(self, trainer: pl.Trainer, algorithm: Algorithm) -> None:
        """Raise a ConfigError for a run without the gradients of one batch, before the run writes anything."""
        if algorithm.optimizer_settings is None:
            raise ConfigError("callbacks=alignment: this rule (algo.optimizer=null) has no gradients to compare.")
        if trainer.accumulate_grad_batches > 1:
            raise ConfigError(
                "callbacks=alignment: compares the gradients of a batch; accumulate_grad_batches adds up."
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        _, epoch, number = batch.draws.key
        due = (epoch * int(trainer.num_training_batches) + number) % self.every_n_steps == 0
        self._batch = batch if due else None

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        batch, self._batch = self._batch, None
        if batch is not None:
            algorithm = cast(Algorithm, pl_module)
            with off_the_clock(trainer), trainer.precision_plugin.train_step_context():
                gradients = backprop_gradients(algorithm, batch)
            if trainer.world_size > 1:
                gradients = {
                    p: cast(Tensor, trainer.strategy.reduce(g, reduce_op="mean")) for p, g in gradients.items()
                }
            if found := alignment(algorithm, gradients):
                algorithm.train_means.update(found, batch.counted)


def alignment(algorithm: Algorithm, gradients: dict[Tensor, Tensor]) -> dict[str, Tensor]:
    """The cosine between `.grad` and `gradients`, by parameter, for the weight and bias of each layer: in [-1, 1].

    It is 0 where one of the two is zero or not finite; layers without gradients are left out.
    """
    found = {}
    for k, block in enumerate(algorithm.stack.blocks):
        pairs = [(cast(Tensor, p.grad), gradients[p]) for p in block.affine.parameters() if p in gradients]
        if pairs:
            rule, backprop = (
                torch.cat([part.double().flatten() for part in side]) for side in zip(*pairs, strict=True)
            )
            cosine = rule @ backprop / (rule.norm() * backprop.norm())
            found[f"alignment/layer_{k}"] = cosine.nan_to_num(0.0, 0.0, 0.0)
    return found


def backprop_gradients(algorithm: Algorithm, batch: Batch) -> dict[Tensor, Tensor]:
    """Differentiate the cross-entropy of the rule's answer through all layers, also where the rule detaches them.

    The modules draw the same random numbers as in the training step; buffers, such as the running means of batch norm,
    and the state of the generators stay as they are.

    Returns:
        gradients by parameter, of the layers' parameters that have a `.grad` and that the answer depends on.
    """
    parameters = [p for block in algorithm.stack.blocks for p in block.affine.parameters() if p.grad is not None]
    buffers = {buffer: buffer.clone() for buffer in algorithm.buffers()}
    devices = [batch.images.device] if batch.images.device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.enable_grad(), algorithm.second_pass(batch):
        with torch.compiler.set_stance("force_eager"), Undetached():
            logits = algorithm.answer(batch.images)
        loss = cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float)), batch.labels)
        answered = loss.requires_grad and parameters
        gradients = torch.autograd.grad(loss * batch.loss_weight, parameters, allow_unused=True) if answered else ()
    with torch.no_grad():
        for buffer, before in buffers.items():
            buffer.copy_(before)
    return {p: g for p, g in zip(parameters, gradients, strict=False) if g is not None}


class Undetached(TorchFunctionMode):
    """Let gradients through where they are cut on purpose, by `detach` or `no_grad`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.Tensor.detach, torch.detach):
            return args[0]
        if func is torch._C._set_grad_enabled:  # what no_grad calls, at its start and at its end
            args = (True,)
        return func(*args, **(kwargs or {}))
