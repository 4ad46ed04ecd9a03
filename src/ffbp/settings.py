"""The types of settings: each constructor declares its ranges with them, and pydantic checks the values.

A class or function that Hydra builds is decorated with `@checked`; what its annotations do not allow is
refused by name, value and range before anything is trained.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator, validate_call

from ffbp.errors import ConfigError

checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, strict=True)]
Counts = Annotated[list[Count], Field(min_length=1)]
CountOrNone = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]

Endless = Literal[-1]
Limit = Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0, le=1, strict=True)] | None
SomeLimit = Count | Annotated[float, Field(gt=0, le=1, strict=True)] | None

Schedule = Literal["constant", "cooldown", "cosine", "onecycle"]


class OptimizerSettings(BaseModel):
    """How parameters are moved along their gradients.

    `lr` is one number, or a list with one for each layer where the algorithm trains layers apart.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["sgd", "momentum", "nesterov", "adam", "adamw"]
    lr: Positive | Annotated[list[Positive], Field(min_length=1)]
    weight_decay: NonNegative
    momentum: Probability


class HeadSettings(BaseModel):
    """How a read-out beside the layers is trained; a dropout of None is that of the model's own head."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: Positive
    weight_decay: NonNegative
    dropout: Probability | None


class Part(BaseModel):
    """What is built by its `_target_`; the other settings are checked by what is built."""

    model_config = ConfigDict(extra="allow")

    target: str = Field(alias="_target_")


class NamedPart(Part):
    """A part whose name stands in metrics.json."""

    name: str


class RunSettings(BaseModel):
    """What a run needs in all, and the settings that belong to no part."""

    model_config = ConfigDict(extra="ignore")

    seed: Seed
    compile: bool
    algo: NamedPart
    model: NamedPart
    data: Part
    checkpoint: dict[str, Any]
    trainer: dict[str, Any]
    callbacks: dict[str, Part] | None = None
    logger: dict[str, Part] | None = None


class CheckpointSettings(BaseModel):
    """How often a run is saved within epochs; 0 for at their ends only."""

    model_config = ConfigDict(extra="forbid")

    every_n_steps: CountOrNone


class TrainerSettings(BaseModel):
    """The arguments of `lightning.pytorch.Trainer` that have a range worth naming; others go through as they are."""

    model_config = ConfigDict(extra="allow")

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: Literal["auto"] | int | list[int]
    precision: Literal["32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true"]
    max_epochs: Count | Endless
    max_steps: Count | Endless
    limit_train_batches: SomeLimit
    limit_val_batches: Limit
    limit_test_batches: SomeLimit
    log_every_n_steps: Count
    check_val_every_n_epoch: Count
    accumulate_grad_batches: Count
    gradient_clip_val: Positive | None
    detect_anomaly: bool
    fast_dev_run: bool | Annotated[int, Field(ge=0, strict=True)]
    deterministic: bool | Literal["warn"]

    @model_validator(mode="after")
    def _an_end(self) -> "TrainerSettings":
        if self.max_epochs == -1 and self.max_steps == -1 and getattr(self, "max_time", None) is None:
            raise ValueError("trainer.max_epochs=-1: an end is needed, set max_epochs, max_steps or max_time.")
        return self


def check_settings(settings: Mapping[str, Any]) -> None:
    """Check the settings that no part of its own checks when it is built; nothing is imported for it.

    Raises:
        ConfigError: with the first that is out of range.
    """
    for group, kind in (("", RunSettings), ("checkpoint", CheckpointSettings), ("trainer", TrainerSettings)):
        try:
            kind.model_validate(settings[group] if group else settings)
        except ValidationError as error:
            raise ConfigError(describe(group, error)) from error


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
