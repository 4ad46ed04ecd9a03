"""Lightning's Trainer from settings, rejected early where they cannot work."""

import logging
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.strategies import DDPStrategy

from ffbp.data import MemoryData
from ffbp.errors import ConfigError, ResourceError
from ffbp.settings import Settings, TrainerSettings

# Lightning makes PyTorch ask the NVIDIA driver for its devices at every step of Adam: 0.12 ms each where there is none
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

# what Lightning says of devices, tips and loaders is no news to the user
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


ALWAYS = {
    "val_check_interval": (1.0, "an epoch is validated at its end; trainer.check_val_every_n_epoch says which ones"),
    "reload_dataloaders_every_n_epochs": (0, "the images stay in memory"),
    "overfit_batches": (0.0, "trainer.limit_train_batches trains on the first batches of each epoch"),
    "model_registry": (None, "nothing is uploaded"),
}
"""Arguments of Lightning's Trainer that must keep their default value here, and why."""


class NoProfiler(PassThroughProfiler):
    """A profiler that costs nothing: Lightning's own builds a context manager thirty times a step."""

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # type: ignore[override]
        return _NOTHING


_NOTHING = nullcontext()

HOOKS_OF_A_BATCH = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)


def build_trainer(settings: Settings, **parts: Any) -> pl.Trainer:
    """Build the Trainer from settings that `check_settings` has passed, and `parts` such as callbacks and loggers.

    Raises:
        ConfigError: if settings are incompatible.
        ResourceError: if the machine lacks the device.
    """
    for name, (default, reason) in ALWAYS.items():
        if settings.get(name, default) not in (default, None):
            raise ConfigError(f"trainer.{name}={settings[name]}: {default} expected; {reason}.")
    _check_device(TrainerSettings.model_validate(settings))
    if settings["accelerator"] == "auto" and not torch.cuda.is_available():
        settings = settings | {"accelerator": "cpu"}  # and not a Mac's, which has no double precision
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        # tasks of a cluster's job are not this run's processes, which trainer.devices asks for
        parts = parts | {"plugins": [*parts.get("plugins", []), LightningEnvironment()]}
    try:
        profiler = settings.get("profiler") or NoProfiler()
        trainer = pl.Trainer(**settings | {"profiler": profiler}, **parts)
    except (MisconfigurationException, ValueError, TypeError) as error:
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
    if isinstance(trainer.strategy, DDPStrategy):  # whether it was named, or chosen for several devices
        # a rule may train only some parameters, or each of them only for a while
        trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)
    _skip_empty_hooks(trainer)
    # with max_steps, Lightning takes an epoch that was saved at its end for one broken off, and inserts an empty one
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
    return trainer


def check_limits(trainer: pl.Trainer, data: MemoryData) -> None:
    """Raise a ConfigError if a fraction of the batches is less than one, which Lightning may notice epochs later."""
    sizes = {"train": (data.train, data.batch_size), "val": (data.val, data.eval_batch_size)}
    for name, (part, size) in (sizes | {"test": (data.test, data.eval_batch_size)}).items():
        limit = getattr(trainer, f"limit_{name}_batches")
        batches = -(-len(part.labels) // size) if part is not None else 0
        if isinstance(limit, float) and limit > 0 and batches and int(limit * batches) == 0:
            raise ConfigError(f"trainer.limit_{name}_batches={limit}: less than one of {batches}; give a whole number.")


def computes_bf16_slowly(trainer: pl.Trainer) -> bool:
    """Whether a training in bf16 is on a processor without instructions for it, so that 32 bits are much faster.

    False where PyTorch cannot tell.
    """
    if not trainer.precision.startswith("bf16") or trainer.strategy.root_device.type != "cpu":
        return False
    ask = getattr(torch.cpu, "get_capabilities", None)  # an older PyTorch may not have it
    return ask is not None and not any(ask().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))


def _skip_empty_hooks(trainer: pl.Trainer) -> None:
    """Have Lightning pass over the hooks of a batch that a callback has not written; it would call all, some thirty.

    It passes over a hook that is None.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for name in HOOKS_OF_A_BATCH:
            if getattr(type(callback), name) is getattr(pl.Callback, name):
                vars(callback).setdefault(name, None)


def evaluation_trainer(weights: torch.dtype = torch.float32) -> pl.Trainer:
    """Build a Trainer that tests a model with weights of a type, and writes and says nothing."""
    names = {torch.float64: "64-true", torch.bfloat16: "bf16-true", torch.float16: "16-true"}
    silent: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", precision=names.get(weights, "32-true"), **silent)  # type: ignore[arg-type]


def _check_device(settings: TrainerSettings) -> None:
    gpus = torch.cuda.device_count()
    if settings.accelerator in ("gpu", "cuda") and not gpus:
        raise ResourceError(f"trainer.accelerator={settings.accelerator}: this machine has none; use trainer=cpu.")
    on_cpu = settings.accelerator == "cpu" or (settings.accelerator == "auto" and not gpus)
    there = (os.cpu_count() or 1) if on_cpu else max(1, gpus)
    wanted = len(settings.devices) if isinstance(settings.devices, list) else settings.devices
    if wanted != "auto" and wanted != -1 and not 1 <= wanted <= there:
        kind = "cores" if on_cpu else "GPUs"
        raise ResourceError(f"trainer.devices={settings.devices}: 1 to {there} expected, the {kind} of this machine.")
    if on_cpu and settings.precision.startswith("16"):
        raise ConfigError(f"trainer.precision={settings.precision}: not on a CPU; use 32-true or bf16-mixed.")
