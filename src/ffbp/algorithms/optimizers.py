"""Optimizers by name or class, and learning-rate schedules as functions of progress."""

import inspect
import math
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from ffbp.errors import ConfigError, one_line
from ffbp.settings import SHORT_NAMES, OptimizerSettings, Schedule, unknown_key

RPROP = "torch.optim.Rprop"
UNUSABLE = {
    "torch.optim.LBFGS": "it computes the loss several times a step, and a batch has one gradient here",
    "torch.optim.Muon": "it moves 2-D weights only, and these networks have biases; use it through a class of your own "
    "that moves the others in another way",
    "torch.optim.SparseAdam": "it moves along sparse gradients only, and these are dense",
}
"""Optimizers of PyTorch that cannot train here, and why."""


def rates_and_decays(settings: OptimizerSettings, count: int, whose: str) -> list[dict[str, float]]:
    """The learning rate of each of `count` parameter groups, and its weight decay where each has one of its own.

    Args:
        settings: `lr` and `weight_decay` are each one number, or a list.
        count: how many groups there are.
        whose: how an error says what a list has a number for, such as "one for each layer".

    Raises:
        ConfigError: if a list is not as long as there are groups.
    """
    for name, value in (("lr", settings.lr), ("weight_decay", settings.weight_decay)):
        if isinstance(value, list) and len(value) != count:
            raise ConfigError(f"algo.optimizer.{name}={value}: one number or {count} expected, {whose}.")
    rates = settings.lr if isinstance(settings.lr, list) else [settings.lr] * count
    decay = settings.weight_decay
    decays = [{"weight_decay": each} for each in decay] if isinstance(decay, list) else [{}] * count
    return [{"lr": rate, **own} for rate, own in zip(rates, decays, strict=True)]


def make_optimizer(groups: list[dict[str, Any]], settings: OptimizerSettings) -> Optimizer:
    """Make the optimizer that `settings` name.

    Args:
        groups: parameter groups, each with its learning rate; a weight decay of their own overrides the settings'.
        settings: sgd is SGD without momentum, momentum and nesterov with it; adam adds weight decay to the gradient,
            adamw decouples it (Loshchilov and Hutter 2019, arXiv:1711.05101); rmsprop is without momentum. Any other
            name is that of a class.

    Raises:
        ConfigError: if there is no such class, or it does not work with these settings.
    """
    name = settings.name
    if name not in SHORT_NAMES:
        return _made_by_class(groups, settings)
    decay = settings.weight_decay if isinstance(settings.weight_decay, float) else 0.0  # a list is in the groups
    if name in ("adam", "adamw"):
        adam = Adam if name == "adam" else AdamW
        return adam(groups, weight_decay=decay, fused=True)
    if name == "rmsprop":
        return RMSprop(groups, lr=0.0, weight_decay=decay)
    momentum = settings.momentum if name != "sgd" and settings.momentum else 0.0
    return SGD(groups, lr=0.0, momentum=momentum, weight_decay=decay, nesterov=name == "nesterov", fused=True)


def _made_by_class(groups: list[dict[str, Any]], settings: OptimizerSettings) -> Optimizer:
    """An optimizer of a class outside this package; it is given the settings that its constructor takes."""
    name, kind = settings.name, _optimizer_class(settings.name)
    _, *parameters = inspect.signature(kind).parameters.values()  # the first are the groups
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    takes_all = len(known) < len(parameters)
    extra = settings.model_extra or {}
    own = {key: tuple(value) if isinstance(value, list) else value for key, value in extra.items()}
    for key in own:
        if key not in known and not takes_all:
            raise ConfigError(unknown_key(key, name, known))
    if "lr" not in known and not takes_all:
        raise ConfigError(f"algo.optimizer.name={name}: has no learning rate, and algo.schedule needs one to change.")
    common: dict[str, Any] = {"weight_decay": settings.weight_decay, "momentum": settings.momentum}
    if "weight_decay" not in known and not takes_all:
        decays = [settings.weight_decay, *(group.pop("weight_decay", None) for group in groups)]
        if wrong := [decay for decay in decays if decay and not isinstance(decay, list)]:
            raise ConfigError(f"algo.optimizer.weight_decay={wrong[0]}: {name} has none; set it, and a head's, to 0.")
    # None is left to the class, and a list is in the groups
    said = {key: value for key, value in common.items() if key in known and isinstance(value, float)}
    keywords = {"lr": groups[0]["lr"], **said, **own}
    trial = Parameter(torch.zeros(2, 2))
    trial.grad = torch.zeros(2, 2)
    try:
        kind([trial], **keywords).step()  # some settings are looked at in the first step only
        made = kind(groups, **keywords)
    except Exception as error:  # whatever a class may raise
        reason = one_line(error) or type(error).__name__
        raise ConfigError(f"algo.optimizer.name={name}: cannot be used with these settings ({reason}).") from error
    _keep_types(made)
    return made


def _keep_types(optimizer: Optimizer) -> None:
    """Let what is loaded into an optimizer keep its type, so that a resumed run goes on to the same bits.

    PyTorch gives all but `step` the type of the weights: NAdam's and ASGD's products of momenta and rates, which are in
    single precision whatever the weights are, would be rounded, or go on in double precision.
    """
    loaded: list[dict[int, dict[str, Any]]] = []

    def restore(optimizer: Optimizer) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, saved in loaded.pop().items():
            state = optimizer.state[parameters[number]]
            for key, value in saved.items():
                if isinstance(value, Tensor) and value.dtype != state[key].dtype:
                    state[key] = value.to(state[key].device)

    optimizer.register_load_state_dict_pre_hook(lambda _, content: loaded.append(content["state"]))
    optimizer.register_load_state_dict_post_hook(restore)


def _optimizer_class(name: str) -> type[Optimizer]:
    """The class with a full name; a ConfigError if there is none, or it cannot train here."""
    if name in UNUSABLE:
        raise ConfigError(f"algo.optimizer.name={name}: {UNUSABLE[name]}.")
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # whatever an import of somebody's module may raise
        raise ConfigError(f"algo.optimizer.name={name}: cannot be imported ({one_line(error)}).") from error
    if not (inspect.isclass(found) and issubclass(found, Optimizer) and found is not Optimizer):
        raise ConfigError(f"algo.optimizer.name={name}: a class of optimizers expected, such as torch.optim.NAdam.")
    return found


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
