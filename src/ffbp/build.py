"""From settings to objects: each group of settings names its `_target_`, and its other keys are the arguments."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from hydra.utils import get_object
from pydantic import ValidationError

from ffbp.algorithms import Algorithm
from ffbp.errors import ConfigError
from ffbp.settings import describe


def build(group: str, settings: Mapping[str, Any], **context: Any) -> Any:
    """Call the target of a group of settings.

    Args:
        group: the name of the group, for messages; of algo, model and data, the `name` is for metrics.json alone.
        settings: `_target_` and its arguments, plain values.
        context: further arguments.

    Raises:
        ConfigError: if the target does not exist or does not accept a setting.
    """
    no_arguments = ("_target_", "name") if group in ("algo", "model", "data") else ("_target_",)
    arguments = {name: value for name, value in settings.items() if name not in no_arguments}
    try:
        target = get_object(settings["_target_"])
    except Exception as error:  # whatever an import of somebody's module may raise
        raise ConfigError(f"{group}._target_={settings.get('_target_')}: cannot be imported ({error}).") from error
    try:
        return target(**arguments, **context)
    except ValidationError as error:
        raise ConfigError(describe(group, error)) from error
    except TypeError as error:
        raise ConfigError(f"{group}: {error}.") from error


def build_algorithm(
    algo: Mapping[str, Any], model: Mapping[str, Any], image_shape: Sequence[int], classes: int
) -> Algorithm:
    """Build a stack and the algorithm that trains it; a ConfigError if the two do not fit together."""
    stack = build("model", model, image_shape=list(image_shape), classes=classes)
    algorithm = cast(Algorithm, build("algo", algo, stack=stack))
    algorithm.configure_optimizers()  # which may reject settings, and should before anything is written
    return algorithm
