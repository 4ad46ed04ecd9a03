"""Optimizers by name, and learning-rate schedules as functions of progress."""

import math
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from ffbp.settings import OptimizerSettings, Schedule


def make_optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings) -> Optimizer:
    """Make the optimizer that `settings` name.

    Args:
        groups: parameter groups, each with its learning rate; a weight decay of their own overrides the settings'.
        settings: sgd is SGD without momentum, momentum and nesterov with it; adam adds weight decay to the gradient,
            adamw decouples it (Loshchilov and Hutter 2019, arXiv:1711.05101); rmsprop is without momentum.
    """
    name, decay = settings.name, settings.weight_decay
    if name in ("adam", "adamw"):
        adam = Adam if name == "adam" else AdamW
        return adam(groups, weight_decay=decay, fused=True)
    if name == "rmsprop":
        return RMSprop(groups, lr=0.0, weight_decay=decay)
    momentum = 0.0 if name == "sgd" else settings.momentum
    return SGD(groups, lr=0.0, momentum=momentum, weight_decay=decay, nesterov=name == "nesterov", fused=True)


def schedule_gain(schedule: Schedule, progress: float) -> float:
    """The factor on the learning rate, in [0, 1], when `progress`, in [0, 1], of the training has passed.

    cooldown: 1 for the first half, then linear to 0; cosine: half a wave from 1 to 0; onecycle: linear from 0 to 1 in
    the first fifth, then linear to 0; constant: 1.

    Source: cooldown is from Hinton's Matlab code, whose factor in epoch e of E, (1 + 2 (E - e)) / E in the second half,
    is the value here in the middle of that epoch, at progress (e - 1/2) / E.
    """
    if schedule == "cooldown":
        return min(1.0, 2 * (1 - progress))
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if schedule == "onecycle":
        return min(progress / 0.2, (1 - progress) / 0.8)
    return 1.0
