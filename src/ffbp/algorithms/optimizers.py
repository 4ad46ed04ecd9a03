"""Optimizers by name, and learning-rate schedules as functions of progress."""

import math
from typing import Any

from torch.optim import SGD, Adam, AdamW, Optimizer

from ffbp.settings import OptimizerSettings, Schedule


def make_optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings) -> Optimizer:
    """Build the optimizer that `settings` name.

    Args:
        groups: parameter groups with a learning rate each; a weight decay of their own wins over the settings'.
        settings: sgd is plain; momentum and nesterov are SGD with a velocity; in adam weight decay is part of the
            gradient, in adamw it is not (Loshchilov and Hutter 2019, arXiv:1711.05101).
    """
    decay = settings.weight_decay
    if settings.name == "adam":
        return Adam(groups, weight_decay=decay, fused=True)
    if settings.name == "adamw":
        return AdamW(groups, weight_decay=decay, fused=True)
    momentum = 0.0 if settings.name == "sgd" else settings.momentum
    return SGD(groups, lr=0.0, momentum=momentum, weight_decay=decay, nesterov=settings.name == "nesterov", fused=True)


def schedule_gain(schedule: Schedule, progress: float) -> float:
    """What the learning rate is multiplied by.

    Args:
        schedule: constant; cooldown, constant for the first half, then linear to 0; cosine, half a wave from 1 to 0;
            onecycle, linear from 0 to 1 in the first fifth, then linear to 0.
        progress: of the training, in [0, 1].

    Returns:
        a factor in [0, 1].

    Source: the cool-down is Hinton's: in epoch e of E his Matlab code multiplies by (1 + 2 (E - e)) / E in the second
    half, which is the value here at the middle of that epoch, progress (e - 1/2) / E.
    """
    if schedule == "cooldown":
        return min(1.0, 2 * (1 - progress))
    if schedule == "cosine":
        return (1 + math.cos(math.pi * progress)) / 2
    if schedule == "onecycle":
        return min(progress / 0.2, (1 - progress) / 0.8)
    return 1.0
