"""Lightning's Trainer from settings, refused early where they cannot work."""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.profilers import PassThroughProfiler

from ffbp.errors import ConfigError, ResourceError
from ffbp.settings import TrainerSettings


class NoProfiler(PassThroughProfiler):
    """No profiler, at the price of none: Lightning's own builds a context manager thirty times a step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


_NOTHING = nullcontext()


def build_trainer(settings: dict[str, Any], *, parameters_rest: bool, **parts: Any) -> pl.Trainer:
    """Build the Trainer.

    Args:
        settings: its arguments, plain values that `check_settings` has passed.
        parameters_rest: whether some parameters get no gradient from some batches.
        parts: callbacks, loggers, plugins and what else is an object.

    Raises:
        ConfigError: if settings are impossible together.
        ResourceError: if the machine lacks the device.
    """
    _check_device(TrainerSettings.model_validate(settings))
    if parameters_rest and settings["strategy"] == "ddp":
        settings = settings | {"strategy": "ddp_find_unused_parameters_true"}
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
