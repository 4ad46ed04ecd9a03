"""From settings to objects: each group of settings names its `_target_`, and its other keys are the arguments."""

from collections.abc import Iterable, Mapping
from typing import Any

from hydra.utils import get_object
from pydantic import ValidationError

from ffbp.algorithms import Algorithm
from ffbp.errors import CheckpointError, ConfigError

TRUSTED = ("ffbp", "torch.optim", "lightning")
"""What a saved run may name as a target; more is a matter of the user's trust."""


def build(group: str, settings: Mapping[str, Any], **context: Any) -> Any:
    """Call the target of a group of settings.

    Args:
        group: the name of the group, for messages.
        settings: `_target_` and its arguments, plain values.
        context: further arguments.

    Raises:
        ConfigError: if the target does not exist or does not accept a setting.
    """
    arguments = {name: value for name, value in settings.items() if name != "_target_"}
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
    algo: Mapping[str, Any], model: Mapping[str, Any], image_shape: Iterable[int], classes: int
) -> Algorithm:
    """Build a stack and the algorithm that trains it.

    Raises:
        ConfigError: if a setting is out of range, or the two do not fit together.
    """
    stack = build("model", _unnamed(model), image_shape=list(image_shape), classes=classes)
    algorithm: Algorithm = build("algo", _unnamed(algo), stack=stack)
    return algorithm


def _unnamed(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "name"}


def require_trust(settings: Mapping[str, Any], trusted: Iterable[str]) -> None:
    """Refuse the settings of a saved run that name a target outside the packages we know.

    Args:
        settings: of the run, nested.
        trusted: names of further packages that the user vouches for.

    Raises:
        CheckpointError: with the target.
    """
    allowed = (*TRUSTED, *trusted)
    for name, value in settings.items():
        if name == "_target_" and not any(str(value).startswith(f"{package}.") for package in allowed):
            package = str(value).split(".")[0]
            raise CheckpointError(f"{value}: refused, this saved run would run it. If you trust it: trust=[{package}]")
        if isinstance(value, Mapping):
            require_trust(value, trusted)


def describe(group: str, error: ValidationError) -> str:
    """The first thing that is wrong, in one line: the setting, its value, what was expected."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # of a check across settings, which names them itself
        return first["msg"].removeprefix("Value error, ")
    # what follows the setting's own name are the branches of a union that were tried
    names = [str(part) for part in first["loc"] if not str(part).startswith(("float", "constrained", "list["))]
    place = ".".join([group, *names] if group else names)
    if first["type"] in ("missing", "unexpected_keyword_argument", "extra_forbidden"):
        return f"{place}: {first['msg'].lower()}."
    wanted = EXPECTED.get(first["type"], first["msg"].removeprefix("Input should be "))
    return f"{place}={first['input']}: {wanted.format(**first.get('ctx', {}))} expected."


EXPECTED = {
    "float_parsing": "a number",
    "float_type": "a number",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
}
"""How pydantic's kinds of errors read in our words; the others are left as they are."""
