"""The types of settings: each constructor declares its ranges with them, and pydantic checks the values.

A class or function that Hydra builds is decorated with `@checked`; what its annotations do not allow is
refused by name, value and range before anything is trained.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, validate_call

checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, strict=True)]
CountOrNone = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**32, strict=True)]

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
    """The learning rate and weight decay of a read-out that is trained beside the layers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: Positive
    weight_decay: NonNegative
