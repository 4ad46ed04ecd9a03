"""Lightning's Trainer from settings, rejected early where they cannot work."""

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy

from ffbp.errors import ConfigError, ResourceError
from ffbp.settings import Settings, TrainerSettings

# Lightning makes PyTorch ask the NVIDIA driver for its devices at every step of Adam: 0.12 ms each where there is none
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

# what Lightning says of devices, tips and loaders is no news to the user
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


class NoProfiler(PassThroughProfiler):
    """A profiler that costs nothing: Lightning's own builds a context manager thirty times a step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


_NOTHING = nullcontext()


def build_trainer(settings: Settings, **parts: Any) -> pl.Trainer:
    """Build the Trainer from settings that `check_settings` has passed, and `parts` such as callbacks and loggers.

    Raises:
        ConfigError: if settings are incompatible.
        ResourceError: if the machine lacks the device.
    """
    _check_device(TrainerSettings.model_validate(settings))
    try:
        profiler = settings["profiler"] or NoProfiler()
        trainer = pl.Trainer(**settings | {"profiler": profiler}, **parts)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
    if isinstance(trainer.strategy, DDPStrategy):  # whether it was named, or chosen for several devices
        # a rule may train only some parameters, or each of them only for a while
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
    return trainer


def evaluation_trainer() -> pl.Trainer:
    """Build a Trainer that tests, and writes and says nothing."""
    return pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)


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
