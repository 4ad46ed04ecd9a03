"""From settings to objects: each group of settings names its `_target_`, and its other keys are the arguments."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from hydra.utils import get_object
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from pydantic import ValidationError

from ffbp.algorithms import Algorithm
from ffbp.data import MemoryData
from ffbp.errors import ConfigError, DataError, Refusal, ResourceError
from ffbp.models import Stack
from ffbp.settings import describe

KINDS: dict[str, type[Any]] = {
    "algo": Algorithm,
    "model": Stack,
    "data": MemoryData,
    "callbacks": Callback,
    "logger": Logger,
}
"""What the targets of each group make."""


def build(group: str, settings: Mapping[str, Any], **context: Any) -> Any:
    """Call the target of a group of settings.

    Args:
        group: the name of the group, for messages; of algo, model and data, the `name` is for metrics.json alone.
        settings: `_target_` and its arguments, plain values.
        context: further arguments.

    Raises:
        ConfigError: if the target does not exist, makes something else than the group is for, needs a package that is
            not installed, or does not accept a setting.
        DataError: if a data set's files cannot be read.
    """
    no_arguments = ("_target_", "name") if group in ("algo", "model", "data") else ("_target_",)
    arguments = {name: value for name, value in settings.items() if name not in no_arguments}
    name = settings["_target_"]
    try:
        target = get_object(name)
    except Exception as error:  # whatever an import of somebody's module may raise
        raise ConfigError(f"{group}._target_={name}: cannot be imported ({error}).") from error
    try:
        built = target(**arguments, **context)
    except (
        Refusal,
        MisconfigurationException,
        MemoryError,
        RuntimeError,
    ):  # which say it themselves, or concern memory
        raise
    except ValidationError as error:
        raise ConfigError(describe(group, error)) from error
    except ImportError as error:
        raise ConfigError(f"{group}._target_={name}: needs a package that is not installed ({error}).") from error
    except OSError as error:
        raise (DataError if group == "data" else ConfigError)(f"{group}: {error}.") from error
    except Exception as error:
        if isinstance(error, TypeError) and "overflow" in str(error).lower():  # a size beyond 64 bits
            raise MemoryError from error
        told = error if isinstance(error, TypeError | ValueError) else repr(error)
        raise ConfigError(f"{group}: {told}.") from error
    kind = KINDS[group.partition(".")[0]]
    if not isinstance(built, kind):
        raise ConfigError(f"{group}._target_={name}: a {kind.__name__} expected, {type(built).__name__} found.")
    return built


def build_algorithm(
    algo: Mapping[str, Any], model: Mapping[str, Any], image_shape: Sequence[int], classes: int
) -> Algorithm:
    """Build a stack and the algorithm that trains it.

    Raises:
        ConfigError: if the two do not fit together.
        ResourceError: if they do not fit into memory.
    """
    try:
        stack = build("model", model, image_shape=list(image_shape), classes=classes)
        algorithm = cast(Algorithm, build("algo", algo, stack=stack))
        algorithm.configure_optimizers()  # which may reject settings, and should before anything is written
        return algorithm
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not re.search("allocate|overflow", str(error)):
            raise
        sizes = [f"model.{name}={value}" for name, value in model.items() if type(value) in (int, list)]
        raise ResourceError(f"out of memory with {', '.join(sizes) or 'this model'}; take a smaller one.") from error
