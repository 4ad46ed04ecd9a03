"""The types of settings: each constructor declares its ranges with them, and pydantic checks the values.

A class or function that Hydra builds is decorated with `@checked`: a value that its annotations do not allow is
rejected, with the setting's name and range, before anything is trained.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
    field_validator,
    model_validator,
    validate_call,
)

from ffbp.errors import ConfigError, did_you_mean
from ffbp.lifecycle.threads import MOST_THREADS

Settings = dict[str, Any]
"""What a run is made from, as conf/train.yaml composes it: groups of plain values."""

checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, strict=True)]
Counts = Annotated[list[Count], Field(min_length=1)]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False, strict=True)]
ZeroOrMore = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]

Endless = Literal[-1]
Limit = ZeroOrMore | Annotated[float, Field(ge=0, le=1, strict=True)] | None
NonZeroLimit = Count | Annotated[float, Field(gt=0, le=1, strict=True)] | None

Schedule = Literal["constant", "cooldown", "cosine", "onecycle"]
BestEpoch = Literal["accuracy", "latest"]


SHORT_NAMES = ("sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop")
"""Optimizers that have a name of ours."""

_NAMES = "Adadelta Adafactor Adagrad Adam AdamW Adamax ASGD NAdam RAdam RMSprop Rprop SGD"
TORCH_OPTIMIZERS = tuple(f"torch.optim.{name}" for name in _NAMES.split())
"""Classes that a saved run may name as its optimizer: they move by dense gradients, and need no closure."""


class OptimizerSettings(BaseModel, extra="allow", frozen=True):
    """How parameters are moved along their gradients.

    `name` is one of SHORT_NAMES, or the full name of a class; `_target_` is another way to write the latter, and wins
    over a name beside it. A class is given lr, weight_decay and momentum as far as it takes them, and all other keys.
    What is None is left to the class.
    """

    name: str
    lr: Positive | Annotated[list[Positive], Field(min_length=1)]  # a list has one rate for each layer, then the head
    weight_decay: NonNegative | Annotated[list[NonNegative], Field(min_length=1)] | None = None  # a list as for lr
    momentum: Probability | None = None

    @model_validator(mode="before")
    @classmethod
    def _target_is_name(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "_target_" in given:
            return {key: value for key, value in given.items() if key != "_target_"} | {"name": given["_target_"]}
        return given

    @field_validator("name")
    @classmethod
    def _a_known_name(cls, name: str) -> str:
        if name not in SHORT_NAMES and "." not in name:
            names = ", ".join(map(repr, SHORT_NAMES))
            raise ValueError(f"algo.optimizer.name={name}: {names} or a class such as torch.optim.NAdam expected.")
        return name

    @model_validator(mode="after")
    def _known_keys(self) -> "OptimizerSettings":
        if self.name in SHORT_NAMES:
            for key in self.model_extra or {}:
                raise ValueError(unknown_key(key, self.name, list(type(self).model_fields)[1:]))
            for key in ("weight_decay", "momentum"):
                if getattr(self, key) is None:
                    raise ValueError(f"algo.optimizer.{key}: a number expected with name={self.name}.")
        return self


def unknown_key(key: str, name: str, known: Sequence[str]) -> str:
    """One line on a key of algo.optimizer that the optimizer with this name does not take."""
    return f"algo.optimizer.{key}: no such setting of {name}, which takes {', '.join(known)}."


class HeadSettings(BaseModel, extra="forbid", frozen=True):
    """How a read-out beside the layers is trained; a dropout of None is that of the model's own head."""

    lr: Positive
    weight_decay: NonNegative
    dropout: Probability | None


class Part(BaseModel, extra="allow"):
    """What is built by its `_target_`; the other settings are checked by what is built."""

    target: str = Field(alias="_target_")


class NamedPart(Part):
    """A part whose name stands in metrics.json."""

    name: str


class DataPart(Part):
    """A data set, whose `name`, or else `source`, stands in metrics.json."""

    @model_validator(mode="after")
    def _named(self) -> "DataPart":
        found = self.model_extra or {}
        if not isinstance(found.get("name") or found.get("source"), str):
            raise ValueError("data.name: a name for the data set expected, which metrics.json and the comparison show.")
        return self


class CheckpointSettings(BaseModel, extra="forbid"):
    """When a run is saved, and which epoch is tested."""

    every_n_steps: ZeroOrMore  # within epochs; 0 for at their ends only
    best: BestEpoch  # the one with the highest val/acc, or the latest


def _is_duration(value: Any) -> bool:
    """Whether a value is a time above 0 as Lightning takes it: DD:HH:MM:SS, or numbers of units."""
    if isinstance(value, str):
        return bool(re.fullmatch(r"\d{1,4}(:\d\d){3}", value) and value.strip("0:"))
    known = isinstance(value, dict) and {*value} <= {"weeks", "days", "hours", "minutes", "seconds"}
    numbers = list(value.values()) if known else []
    return all(type(number) in (int, float) and 0 <= number < 1e9 for number in numbers) and any(numbers)


class TrainerSettings(BaseModel, extra="allow"):
    """The arguments of `lightning.pytorch.Trainer` that have a range worth naming; others go through as they are."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda"]
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true"]
    devices: Literal["auto"] | int | list[int]
    precision: Literal["32-true", "64-true", "bf16-mixed", "bf16-true", "16-mixed", "16-true"]
    max_epochs: Count | Endless
    max_steps: Count | Endless
    max_time: Any = None
    min_epochs: Count | None = None
    min_steps: Count | None = None
    limit_train_batches: NonZeroLimit
    limit_val_batches: Limit
    limit_test_batches: NonZeroLimit
    num_sanity_val_steps: ZeroOrMore | Endless = 0
    log_every_n_steps: Count
    check_val_every_n_epoch: Count
    accumulate_grad_batches: Count
    gradient_clip_val: Positive | None
    detect_anomaly: StrictBool
    fast_dev_run: StrictBool | ZeroOrMore
    deterministic: StrictBool | Literal["warn"]
    profiler: Literal["simple", "advanced", "pytorch"] | None = None

    @field_validator("max_time")
    @classmethod
    def _a_duration(cls, value: Any) -> Any:
        if not (value is None or _is_duration(value)):
            raise ValueError(f"trainer.max_time={value}: DD:HH:MM:SS expected, such as 00:12:00:00.")
        return value

    @model_validator(mode="after")
    def _an_end(self) -> "TrainerSettings":
        if self.max_epochs == -1 and self.max_steps == -1 and self.max_time is None:
            raise ValueError("trainer.max_epochs=-1: an end is needed, set max_epochs, max_steps or max_time.")
        if self.min_epochs is not None and -1 < self.max_epochs < self.min_epochs:
            raise ValueError(f"trainer.min_epochs={self.min_epochs}: at most trainer.max_epochs={self.max_epochs}.")
        return self


class RunSettings(BaseModel, extra="ignore"):
    """All of a run's settings."""

    seed: Seed
    compile: StrictBool
    threads: Any = None  # None for as many as PyTorch takes, as before there was a rule
    algo: NamedPart
    model: NamedPart
    data: DataPart
    checkpoint: CheckpointSettings
    trainer: TrainerSettings
    callbacks: dict[str, Part] | None = None
    logger: dict[str, Part] | None = None

    @field_validator("threads")
    @classmethod
    def _a_number_of_threads(cls, value: Any) -> Any:
        if value not in ("auto", None) and not (type(value) is int and 1 <= value <= MOST_THREADS):
            raise ValueError(f"threads={value}: auto, or a whole number from 1 to {MOST_THREADS} expected.")
        return value


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise a ConfigError for settings that no part checks when it is built; nothing is imported for it."""
    try:
        RunSettings.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(describe("", error)) from error


LOOKUP = re.compile(r"\$\{(?:oc\.select:)?\.*+([\w.-]++)(?!:)")  # ${seed}, ${..seed}; not a resolver such as ${now:%Y}

KNOWN = {*RunSettings.model_fields, "paths", "resume", "debug"}
KNOWN |= {f"paths.{name}" for name in ("data_dir", "log_dir", "output_dir")}


def check_names(settings: Mapping[str, Any]) -> None:
    """Raise a ConfigError for a setting beside the groups, or among `paths`, that nothing reads.

    `settings` are as composed, with their lookups: a value of one's own that another setting looks up has a use.
    """
    looked_up = [f"{name}." for name in LOOKUP.findall(str(settings))]
    for name in [*settings, *(f"paths.{name}" for name in settings.get("paths") or ())]:
        if name not in KNOWN and not any(each.startswith(f"{name}.") for each in looked_up):
            others = [other for other in setting_names(settings) if not f"{other}.".startswith(f"{name}.")]
            raise ConfigError(f"{name}: no such setting.{did_you_mean(name, others)}")


def setting_names(node: Any, prefix: str = "") -> Iterator[str]:
    """The full names of all settings and groups of settings, such as algo and algo.optimizer.lr."""
    for name, child in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{name}"
        yield from setting_names(child, f"{prefix}{name}.")


def ended_by_the_clock(settings: Settings) -> bool:
    """Whether time ends the training, which then cannot be repeated exactly."""
    timers = [part for part in (settings.get("callbacks") or {}).values() if part["_target_"].endswith(".Timer")]
    return settings["trainer"].get("max_time") is not None or bool(timers)


def describe(group: str, error: ValidationError) -> str:
    """The first thing that is wrong, in one line: the setting, its value, what was expected."""
    first = error.errors()[0]
    if first["type"] == "value_error":  # of a check across settings, which names them itself
        return first["msg"].removeprefix("Value error, ")
    # what follows the setting's own name are the branches of a union that were tried
    names = [
        str(part)
        for part in first["loc"]
        if not str(part).startswith(("float", "constrained", "list[", "bool", "literal", "function"))
    ]
    place = ".".join([group, *names] if group else names)
    if first["type"].startswith("missing") or first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{place}: {first['msg'].lower()}."
    ours = EXPECTED.get(first["type"])
    wanted = ours.format(**first.get("ctx", {})) if ours else first["msg"].removeprefix("Input should be ")
    return f"{place}={first['input']}: {wanted} expected."


EXPECTED = {
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    "string_type": "a text, in quotes within quotes if it looks like a number,",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
}
"""How pydantic's kinds of errors read in our words; the others are left as they are."""
