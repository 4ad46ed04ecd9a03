"""A run, from its settings to its metrics: build, fit, test, write."""

import json
import logging
import os
import platform
import re
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary

from ffbp.algorithms import Algorithm
from ffbp.build import build, build_algorithm
from ffbp.callbacks import RunRecord
from ffbp.checkpoint import FORMAT, SafeCheckpointIO, previous_of, read_checkpoint, restore_previous
from ffbp.data import ImageData
from ffbp.errors import CheckpointError, ConfigError, NumericError, ResourceError
from ffbp.files import write_text
from ffbp.run_directory import differences, nearby_runs
from ffbp.settings import check_settings
from ffbp.signals import SIGNALS
from ffbp.trainer import build_trainer
from ffbp.trust import require_trust
from ffbp.upgrades import upgrade

Settings = dict[str, Any]

# Lightning makes PyTorch ask the NVIDIA driver for its devices at every step of Adam: 0.12 ms each where there is none
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"

# what Lightning says of devices, tips and loaders is no news to who runs this
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")
# sums that a checkpoint brought have had no update in this process, and are meant
warnings.filterwarnings("ignore", "The ``compute`` method of metric EpochMeans", module="torchmetrics")


def train(
    settings: Settings,
    directory: Path,
    *,
    resume: bool = False,
    bar: bool | None = None,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train, test on the best checkpoint, and leave everything in `directory`.

    Args:
        settings: as `conf/train.yaml` composes them, plain values.
        directory: of the run.
        resume: go on from the last checkpoint there, or from the start where the run did not come to one.
        bar: draw a progress bar, instead of printing a line an epoch; None where there is a terminal.
        begin: called once all parts are built, in the first process, before anything is written.

    Returns:
        what is in metrics.json.

    Raises:
        Refusal: one of its kinds, with a line that says what to do.
    """
    started = time.perf_counter()
    check_settings(settings)
    with _refusals(settings, directory):
        pl.seed_everything(settings["seed"], verbose=False)
        data: ImageData = build("data", settings["data"], seed=settings["seed"])
        algorithm = build_algorithm(settings["algo"], settings["model"], data.image_shape, data.classes)
        algorithm.settings = checkpoint_settings(settings, data)
        parameters = sum(parameter.numel() for parameter in algorithm.parameters())
        if settings["compile"]:
            for block in algorithm.stack.blocks:
                block.compile()

        bar = sys.stdout.isatty() if bar is None else bar
        rehearsal = bool(settings["trainer"]["fast_dev_run"])
        every = settings["checkpoint"]["every_n_steps"]
        record = RunRecord(directory, every_n_steps=every, announce=not bar, signals=SIGNALS, rehearsal=rehearsal)
        chosen = [build(f"callbacks.{name}", part) for name, part in (settings.get("callbacks") or {}).items()]
        if bar:
            chosen.append(RichProgressBar(refresh_rate=4, console_kwargs={"force_terminal": True}))
        trainer = build_trainer(
            settings["trainer"] | {"enable_progress_bar": bar, "enable_model_summary": False},
            parameters_rest=algorithm.parameters_rest,
            callbacks=[*chosen, record],
            logger=[build(f"logger.{name}", part) for name, part in (settings.get("logger") or {}).items()],
            plugins=[SafeCheckpointIO()],
            default_root_dir=directory,
        )
        last = _last_checkpoint(record.last_path, algorithm.settings) if resume else None
        if trainer.is_global_zero:
            begin()
            if not resume:
                print(ModelSummary(algorithm, max_depth=3), flush=True)
            if last == previous_of(record.last_path):
                restore_previous(record.last_path)
        trainer.fit(algorithm, data, ckpt_path=last, weights_only=True)
        train_seconds = record.clock.seconds  # before the best checkpoint brings back the clock of its epoch
        best = None if rehearsal else trainer.strategy.broadcast(record.best_path)
        [tested] = trainer.test(algorithm, data, ckpt_path=best, weights_only=True, verbose=False)

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
    return metrics


@contextmanager
def _refusals(settings: Settings, directory: Path) -> Iterator[None]:
    """Say in one line what Lightning and PyTorch raise where a user can do something about it."""
    try:
        yield
    except MisconfigurationException as error:  # what Lightning finds impossible together
        raise ConfigError(f"trainer: {_one_line(error)}") from error
    except NumericError as error:
        raise NumericError(f"{error} {_last_good(directory)}") from error
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        message = _one_line(error)
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in message:
            size = settings["data"]["batch_size"]
            raise ResourceError(f"out of memory with data.batch_size={size}; try {max(1, size // 2)}.") from error
        if "returned nan values" in message:  # what trainer.detect_anomaly looks for
            raise NumericError(f"{message} {_last_good(directory)}") from error
        if re.search(r"closed by peer|reset by peer|Connection refused|Broken pipe", message, re.IGNORECASE):
            raise ResourceError(f"another process of this run is gone ({message}). {_last_good(directory)}") from error
        raise


def _last_good(directory: Path) -> str:
    """What is left of a run that cannot go on."""
    path = directory / "checkpoints" / "last.ckpt"
    if not path.exists():
        return "There is no checkpoint yet."
    return f"The last good checkpoint is {path}: ask it with python evaluate.py run={path}."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


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
    own = upgrade(content["ffbp"])
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


def _last_checkpoint(path: Path, settings: Settings) -> Path | None:
    """The checkpoint a run goes on from, None if it was broken off before its first.

    Raises:
        CheckpointError: if it cannot be read, or belongs to other settings.
    """
    began = any(file.exists() for file in (path, previous_of(path), path.parents[1] / "metrics.csv"))
    if not began:
        print("no checkpoint yet: from the start", file=sys.stderr)
        return None
    usable = usable_checkpoint(path)
    own = read_checkpoint(usable)["ffbp"] | {"format": FORMAT}
    if wrong := differences(upgrade(own), settings):
        raise CheckpointError(f"{usable}: of other settings than its run: {'; '.join(wrong)}.")
    return usable


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
