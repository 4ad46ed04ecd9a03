"""A checkpoint's content compared with freshly built parts, before anything is loaded into them.

PyTorch checks little of what it loads: an optimizer takes states of any shape, and its kernels then write beyond the
parameters. What fits here has the names, shapes and types that the same settings bring about today.
"""

import math
from collections.abc import Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import lightning.pytorch as pl
import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor
from torch.optim import Optimizer

from ffbp.algorithms import Algorithm
from ffbp.build import build
from ffbp.errors import CheckpointError, ConfigError
from ffbp.lifecycle.trainer import evaluation_trainer
from ffbp.settings import Count, DataPart, NamedPart, NonNegative, Seed

MOST_PIXELS = 2**28  # of an image, times the classes: 1,000 classes of 500 x 500 pixels
MOST_PROGRESS = 2**53


class OwnSettings(BaseModel, extra="allow"):
    """What a checkpoint says of itself: enough to build its model again."""

    algo: NamedPart
    model: NamedPart
    data: DataPart
    seed: Seed
    image_shape: Annotated[list[Count], Field(min_length=3, max_length=3)]
    classes: Count
    class_names: list[Annotated[str, Field(max_length=300)]] | None = None  # which earlier versions did not keep


Progress = Annotated[int, Field(ge=0, le=MOST_PROGRESS)]


class Clock(BaseModel, extra="forbid", strict=True):
    """Seconds of training."""

    seconds: NonNegative
    epoch_seconds: NonNegative


class Record(BaseModel, extra="allow", strict=True):
    """What `RunRecord` keeps."""

    rows: list[dict[str, float]]
    best: dict[str, float]
    clock: Clock


class States(BaseModel, extra="ignore", strict=True):
    """What Lightning and we keep besides the weights."""

    epoch: Progress
    global_step: Progress
    lightning: Annotated[str, Field(alias="pytorch-lightning_version", pattern=r"^2\.\d+\.\d+[\w.+-]*$")]
    loops: dict[str, dict[str, Any]]
    callbacks: dict[str, dict[str, Any]]
    optimizer_states: list[dict[str, Any]]
    lr_schedulers: list[dict[str, Any]]
    train_means: list[Any]


def require_fitting_model(path: Path, content: Mapping[str, Any]) -> None:
    """Raise a CheckpointError if a checkpoint's weights are not those that its settings ask for; reserve no memory."""
    own, weights = content["ffbp"], content.get("state_dict")
    try:
        OwnSettings.model_validate(own)
    except ValidationError as error:
        raise CheckpointError(f"{path}: its settings cannot be used: {_reason(error)}") from error
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise CheckpointError(f"{path}: contains no weights.")
    if (names := own.get("class_names")) is not None and len(names) != own["classes"]:
        raise CheckpointError(f"{path}: {own['classes']} names of classes expected, {len(names)} found.")
    if own["classes"] * math.prod(own["image_shape"]) > MOST_PIXELS:
        raise CheckpointError(f"{path}: refused, {own['classes']} classes of images of shape {own['image_shape']}.")
    if _size((own["algo"], own["model"])) > 1000 + 4 * len(weights):
        raise CheckpointError(f"{path}: refused, more settings than its weights can need.")
    try:
        with torch.device("meta"):  # tensors that have a shape and no memory
            stack = build("model", own["model"], image_shape=own["image_shape"], classes=own["classes"])
            expected = build("algo", own["algo"], stack=stack).to(precision_of(weights)).state_dict()
    except ConfigError as error:
        raise CheckpointError(f"{path}: its settings cannot be used: {error}") from error
    except Exception as error:  # whatever sizes without sense may raise
        if not all(own[group]["_target_"].startswith("ffbp.") for group in ("algo", "model")):
            return  # code that the user vouches for, and that needs numbers to be built
        raise CheckpointError(f"{path}: its model cannot be built ({' '.join(str(error).split())}).") from error
    # a run in another precision has its weights in it, and a model that is loaded takes them as they are
    there, here = ({name: _as_float(tensor) for name, tensor in part.items()} for part in (weights, expected))
    _require_same_tensors(f"{path}: its weights do not fit its settings", there, here)


def precision_of(weights: Mapping[str, Tensor]) -> torch.dtype:
    """The one floating-point type of a checkpoint's weights, see trainer.precision; single where they have several."""
    types = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    return types.pop() if len(types) == 1 else torch.float32


def require_fitting_states(
    path: Path, content: Mapping[str, Any], algorithm: Algorithm, callbacks: Iterable[pl.Callback]
) -> None:
    """Raise a CheckpointError if a run cannot go on from a checkpoint's content.

    Args:
        path: of the checkpoint, for messages.
        content: that `require_fitting_model` has passed.
        algorithm: freshly built, in the precision in which it is trained.
        callbacks: freshly built, those of the run besides `RunRecord`.
    """
    _require_same_tensors(f"{path}: its weights are not the run's", content["state_dict"], algorithm.state_dict())
    try:
        states = States.model_validate(content)
        Record.model_validate(states.callbacks.get("RunRecord"))
    except ValidationError as error:
        raise CheckpointError(f"{path}: a run cannot go on from it: {_reason(error)}") from error
    optimizers = _optimizers(algorithm)
    found = [
        state for state in states.optimizer_states if state or optimizers
    ]  # Lightning puts a {} where there is none
    if len(found) != len(optimizers):
        raise CheckpointError(f"{path}: {len(optimizers)} states of optimizers expected, {len(found)} found.")
    for optimizer, state in zip(optimizers, found, strict=True):
        _require_fitting_optimizer(path, state, optimizer, begun=states.global_step > 0)
    trainer = evaluation_trainer()
    loops = {name: getattr(trainer, name).state_dict() for name in ("fit_loop", "validate_loop", "test_loop")}
    for name, expected in loops.items():
        _require_alike(f"{path}: loops.{name}", states.loops.get(name), expected)
    if content["ffbp"]["data"]["_target_"].startswith("ffbp."):
        place = f"{path}: loops.fit_loop.state_dict"
        loaders = states.loops["fit_loop"]["state_dict"].get("combined_loader", [])
        if not isinstance(loaders, list) or len(loaders) > 1:
            raise CheckpointError(f"{place}: one loader expected.")
        for loader in loaders:
            _require_alike(place, loader, {"epoch": 0, "batches": 0})
    for callback in callbacks:
        if callback.state_key in states.callbacks:
            place = f"{path}: callbacks.{callback.state_key}"
            _require_alike(place, states.callbacks[callback.state_key], callback.state_dict())
    for part in states.train_means:
        if not _is_mean(part):
            raise CheckpointError(f"{path}: train_means: names, their sums and a number of images expected.")


def _require_same_tensors(problem: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise a CheckpointError that begins with `problem` if names, shapes or types of tensors differ."""
    for name in dict.fromkeys([*there, *here]):
        found, expected = (_kind(tensors.get(name)) for tensors in (there, here))
        if found != expected:
            raise CheckpointError(f"{problem}: {name} is {found} there, {expected} here.")


def _as_float(tensor: Tensor) -> Tensor:
    """A tensor of the same shape without memory, in single precision if it has fractions."""
    return tensor.to(device="meta", dtype=torch.float if tensor.is_floating_point() else tensor.dtype)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} of shape {list(value.shape)}"
    return "missing" if value is None else type(value).__name__


def _optimizers(algorithm: Algorithm) -> list[Optimizer]:
    """The optimizers that a rule configures, in any of the forms in which Lightning takes them."""
    configured: Any = algorithm.configure_optimizers()
    if isinstance(configured, tuple) and len(configured) == 2 and isinstance(configured[0], list):
        configured = configured[0]  # and schedules
    each = configured if isinstance(configured, list | tuple) else [] if configured is None else [configured]
    return [one["optimizer"] if isinstance(one, dict) else one for one in each]


def _require_fitting_optimizer(path: Path, state: Mapping[str, Any], optimizer: Optimizer, *, begun: bool) -> None:
    """Compare the state of an optimizer with that of its copy after a step without gradients."""
    copy = deepcopy(optimizer)
    for group in copy.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    copy.step()
    expected, problem = copy.state_dict(), f"{path}: the state of its optimizer is not the run's"
    groups, each = state.get("param_groups"), state.get("state")
    if not isinstance(groups, list) or not isinstance(each, dict) or len(groups) != len(expected["param_groups"]):
        raise CheckpointError(f"{problem}.")
    for there, here in zip(groups, expected["param_groups"], strict=True):
        if not isinstance(there, dict) or not isinstance(rate := there.get("lr"), float) or not 0 <= rate < math.inf:
            raise CheckpointError(f"{problem}: lr.")
        for name in dict.fromkeys([*there, *here]):  # what a schedule sets differs
            if name != "lr" and (name not in there or name not in here or not _same(there[name], here[name])):
                raise CheckpointError(f"{problem}: {name}.")
    if begun and expected["state"] and not each:
        raise CheckpointError(f"{problem}: it is empty.")
    for number, tensors in each.items():  # a parameter that has had no gradient has no state yet
        if not isinstance(tensors, dict) or number not in expected["state"]:
            raise CheckpointError(f"{problem}: parameter {number}.")
        _require_same_tensors(f"{problem}: parameter {number}", tensors, expected["state"][number])


def _same(there: Any, here: Any) -> bool:
    return type(there) is type(here) and not isinstance(there, Tensor) and bool(there == here)


def _require_alike(place: str, there: Any, here: Any) -> None:
    """Raise a CheckpointError if nested counters and states differ in their names or types."""
    if isinstance(there, dict) and isinstance(here, dict) and here:
        for name in dict.fromkeys([*there, *here]):
            if name not in there or (name not in here and not str(name).endswith("state_dict")):
                raise CheckpointError(f"{place}.{name}: {'missing' if name not in there else 'not expected'}.")
            _require_alike(f"{place}.{name}", there[name], here.get(name, {}))
    elif isinstance(here, dict):  # which is filled only while a run goes on
        if not isinstance(there, dict):
            raise CheckpointError(f"{place}: a dict expected.")
    elif isinstance(there, Tensor) and there.numel() > (here.numel() if isinstance(here, Tensor) else 1):
        raise CheckpointError(f"{place}: one number expected.")
    elif here is not None and there is not None and type(there) is not type(here):
        raise CheckpointError(f"{place}: {type(here).__name__} expected, {type(there).__name__} found.")
    elif type(there) is int and not 0 <= there <= MOST_PROGRESS:
        raise CheckpointError(f"{place}={there}: 0 or more expected.")


def _is_mean(part: Any) -> bool:
    if not isinstance(part, list) or len(part) != 3 or not isinstance(part[0], list) or not isinstance(part[1], Tensor):
        return False
    names, sums, images = part
    right = sums.dtype == torch.double and sums.shape == (len(names),)
    return (
        right and all(isinstance(name, str) for name in names) and type(images) is int and 0 <= images <= MOST_PROGRESS
    )


def _reason(error: ValidationError) -> str:
    """The first thing that is wrong, without its value, which may be long."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'a part'}: {first['msg']}."


def _size(node: Any) -> int:
    """How many values there are in nested settings."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ()
    return 1 + sum(map(_size, children))
