"""A run, from its settings to its metrics: build, fit, test, write."""

import json
import logging
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from pydantic import BaseModel, ConfigDict, ValidationError

from ffbp.algorithms import Algorithm
from ffbp.build import build, build_algorithm, describe, require_trust
from ffbp.callbacks import NotedSignals, RunRecord
from ffbp.checkpoint import FORMAT, SafeCheckpointIO, previous_of, read_checkpoint
from ffbp.data import ImageData
from ffbp.errors import CheckpointError, ConfigError, ResourceError
from ffbp.files import write_text
from ffbp.settings import CountOrNone, Seed
from ffbp.trainer import build_trainer

Settings = dict[str, Any]

# Lightning makes PyTorch ask the NVIDIA driver for its devices at every step of Adam: 0.12 ms each where there is none
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

# what Lightning says of devices, tips and loaders is no news to who runs this
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")


class RunSettings(BaseModel):
    """The settings that belong to no part."""

    model_config = ConfigDict(extra="ignore")

    seed: Seed
    compile: bool


class CheckpointSettings(BaseModel):
    """How often a run is saved within epochs; 0 for at their ends only."""

    model_config = ConfigDict(extra="forbid")

    every_n_steps: CountOrNone


def train(settings: Settings, directory: Path, *, resume: bool = False, bar: bool | None = None) -> dict[str, Any]:
    """Train, test on the best checkpoint, and leave everything in `directory`.

    Args:
        settings: as `conf/train.yaml` composes them, plain values.
        directory: of the run.
        resume: go on from the last checkpoint there.
        bar: draw a progress bar, instead of printing a line an epoch; None where there is a terminal.

    Returns:
        what is in metrics.json.

    Raises:
        Refusal: one of its kinds, with a line that says what to do.
    """
    started = time.perf_counter()
    _check(settings)
    pl.seed_everything(settings["seed"], verbose=False)
    data: ImageData = build("data", settings["data"], seed=settings["seed"])
    algorithm = build_algorithm(settings["algo"], settings["model"], data.image_shape, data.classes)
    algorithm.settings = checkpoint_settings(settings, data)
    parameters = sum(parameter.numel() for parameter in algorithm.parameters())
    if settings["compile"]:
        for block in algorithm.stack.blocks:
            block.compile()

    signals = NotedSignals()
    bar = sys.stdout.isatty() if bar is None else bar
    rehearsal = bool(settings["trainer"]["fast_dev_run"])
    every = settings["checkpoint"]["every_n_steps"]
    record = RunRecord(directory, every_n_steps=every, announce=not bar, signals=signals, rehearsal=rehearsal)
    chosen = [build(f"callbacks.{name}", part) for name, part in (settings["callbacks"] or {}).items()]
    if bar:
        chosen.append(RichProgressBar(refresh_rate=4, console_kwargs={"force_terminal": True}))
    trainer = build_trainer(
        settings["trainer"] | {"enable_progress_bar": bar, "enable_model_summary": False},
        callbacks=[*chosen, record],
        logger=[build(f"logger.{name}", part) for name, part in (settings["logger"] or {}).items()],
        plugins=[SafeCheckpointIO()],
        default_root_dir=directory,
    )
    if not resume and trainer.is_global_zero:
        print(ModelSummary(algorithm, max_depth=3), flush=True)
    last = usable_checkpoint(record.last_path) if resume else None
    if trainer.is_global_zero:
        write_status(directory, "running")
    try:
        with signals:
            trainer.fit(algorithm, data, ckpt_path=last, weights_only=True)
        train_seconds = record.clock.seconds  # before the best checkpoint brings back the clock of its epoch
        best = None if rehearsal else record.best_path
        [tested] = trainer.test(algorithm, data, ckpt_path=best, weights_only=True, verbose=False)
    except MisconfigurationException as error:  # what Lightning finds impossible together
        raise ConfigError(f"trainer: {' '.join(str(error).split())}") from error
    except torch.OutOfMemoryError as error:
        size = settings["data"]["batch_size"]
        raise ResourceError(f"out of memory with data.batch_size={size}; try {max(1, size // 2)}.") from error

    metrics = {
        "algo": settings["algo"]["name"],
        "model": settings["model"]["name"],
        "data": settings["data"]["source"],
        "seed": settings["seed"],
        "epochs": trainer.current_epoch,
        "parameters": parameters,
        **tested,
        **{"val/acc": None, "val/loss": None},
        **{name: value for name, value in record.best.items() if name.startswith("val/")},
        "time/train_seconds": train_seconds,
        "time/total_seconds": time.perf_counter() - started,
        "memory/peak_mib": _peak_mib(trainer),
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "python": platform.python_version(),
        "device": _device_name(trainer),
        "threads": torch.get_num_threads(),
        "git": _git_revision(),
    }
    if trainer.is_global_zero:
        write_text(directory / "metrics.json", json.dumps(metrics, indent=2) + "\n")
        write_status(directory, "finished")
    return metrics


def load(run: str | Path, *, trust: Sequence[str] = ()) -> Algorithm:
    """Load a trained model; nothing that is in the files is run.

    Args:
        run: a run directory, whose best checkpoint is taken, or a checkpoint file.
        trust: names of packages, beside our own, whose classes the run may name.

    Returns:
        the algorithm with its trained stack, in evaluation mode on the CPU: ask it with `.predict(images)`.

    Raises:
        CheckpointError: if there is no such run, or its checkpoint is damaged or not to be trusted.
    """
    path = Path(run)
    if not path.is_file():
        path = best_checkpoint(path)
    content = read_checkpoint(path)
    own = content["ffbp"]
    require_trust(own, trust)
    algorithm = build_algorithm(own["algo"], own["model"], own["image_shape"], own["classes"])
    algorithm.settings = own
    try:
        algorithm.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: its weights do not fit its settings ({reason}).") from error
    return algorithm.eval()


def best_checkpoint(directory: Path) -> Path:
    """The best checkpoint of a run.

    Raises:
        CheckpointError: if there is none, with the runs nearby.
    """
    path = directory / "checkpoints" / "best.ckpt"
    if path.is_file():
        return path
    raise CheckpointError(f"{directory}: no run with a checkpoint there.{nearby_runs(directory)}")


def nearby_runs(directory: Path) -> str:
    """A sentence that names the latest runs close to a directory that is none, or nothing."""
    folder = next((folder for folder in (directory, *directory.parents) if folder.is_dir()), Path())
    runs = sorted({found.parent.parent for found in folder.glob("**/checkpoints/last.ckpt")})[-3:]
    return f" Runs nearby: {', '.join(map(str, runs))}." if runs else ""


def usable_checkpoint(path: Path) -> Path:
    """The checkpoint at `path` if it is whole, else the one before it, saying so.

    Raises:
        CheckpointError: if neither can be read.
    """
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        previous = previous_of(path)
        if not previous.exists():
            raise
        read_checkpoint(previous)
        print(f"{error} Going on from that.", file=sys.stderr)
        return previous
    return path


def checkpoint_settings(settings: Settings, data: ImageData) -> Settings:
    """What a checkpoint says of itself: enough to build the model again, and no path of this machine."""
    return {
        "format": FORMAT,
        "algo": settings["algo"],
        "model": settings["model"],
        "data": {name: value for name, value in settings["data"].items() if name != "data_dir"},
        "seed": settings["seed"],
        "image_shape": list(data.image_shape),
        "classes": data.classes,
    }


def write_status(directory: Path, state: str, error: str | None = None) -> None:
    """Say in status.json how the run stands: running, finished, failed or interrupted."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / "status.json", json.dumps({"state": state, "error": error}) + "\n")
    except OSError as problem:
        raise ResourceError(f"{directory}: cannot be written ({problem.strerror}); choose another folder.") from problem


def _check(settings: Settings) -> None:
    for group, model in (("", RunSettings), ("checkpoint", CheckpointSettings)):
        try:
            model.model_validate(settings[group] if group else settings)
        except ValidationError as error:
            raise ConfigError(describe(group, error)) from error


def _device_name(trainer: pl.Trainer) -> str:
    device = trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine() + " " + device.type


def _peak_mib(trainer: pl.Trainer) -> float:
    """The most memory that was used: on the GPU that trained, or by this process."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
