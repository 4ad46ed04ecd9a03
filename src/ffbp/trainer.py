"""Lightning's Trainer from settings, refused early where they cannot work."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.profilers import PassThroughProfiler
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ffbp.build import describe
from ffbp.errors import ConfigError, ResourceError
from ffbp.settings import Count, Positive

Endless = Literal[-1]
Limit = Annotated[int, Field(ge=0, strict=True)] | Annotated[float, Field(ge=0, le=1, strict=True)] | None
SomeLimit = Count | Annotated[float, Field(gt=0, le=1, strict=True)] | None


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


class NoProfiler(PassThroughProfiler):
    """No profiler, at the price of none: Lightning's own builds a context manager thirty times a step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


_NOTHING = nullcontext()


def build_trainer(settings: dict[str, Any], **parts: Any) -> pl.Trainer:
    """Build the Trainer.

    Args:
        settings: its arguments, plain values.
        parts: callbacks, loggers, plugins and what else is an object.

    Raises:
        ConfigError: if a setting is out of range.
        ResourceError: if the machine lacks the device.
    """
    try:
        checked = TrainerSettings.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(describe("trainer", error)) from error
    _check_device(checked)
    try:
        profiler = settings["profiler"] or NoProfiler()
        return pl.Trainer(**settings | {"profiler": profiler}, **parts)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error


def _check_device(settings: TrainerSettings) -> None:
    gpus = torch.cuda.device_count()
    if settings.accelerator in ("gpu", "cuda") and not gpus and not torch.backends.mps.is_available():
        raise ResourceError(f"trainer.accelerator={settings.accelerator}: this machine has none; use trainer=cpu.")
    on_cpu = settings.accelerator == "cpu" or (settings.accelerator == "auto" and not gpus)
    there = (os.cpu_count() or 1) if on_cpu else max(1, gpus)
    wanted = len(settings.devices) if isinstance(settings.devices, list) else settings.devices
    if wanted != "auto" and wanted != -1 and not 1 <= wanted <= there:
        kind = "cores" if on_cpu else "GPUs"
        raise ResourceError(f"trainer.devices={settings.devices}: 1 to {there} expected, the {kind} of this machine.")
    if on_cpu and settings.precision.startswith("16"):
        raise ConfigError(f"trainer.precision={settings.precision}: not on a CPU; use 32-true or bf16-mixed.")
