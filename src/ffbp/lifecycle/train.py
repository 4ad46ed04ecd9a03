"""A run, from its settings to its metrics: prepare what may be rejected, then fit, test, write."""

import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from traceback import walk_tb
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ffbp.algorithms import Algorithm
from ffbp.build import build, build_algorithm
from ffbp.callbacks import Costs
from ffbp.data import MemoryData
from ffbp.errors import CheckpointError, ConfigError, NumericError, ResourceError
from ffbp.files import CHECKOUT, PROGRAM, write_text
from ffbp.lifecycle.checkpoint import FORMAT, SafeCheckpointIO, replace_damaged
from ffbp.lifecycle.conflicts import reject_conflicts, require_compiler
from ffbp.lifecycle.directory import RunDirectory, previous_of
from ffbp.lifecycle.freed_memory import keep_freed_memory
from ffbp.lifecycle.load import checkpoint_to_resume
from ffbp.lifecycle.places import without_places
from ffbp.lifecycle.predictions import TestAnswers
from ffbp.lifecycle.progress import EpochBar
from ffbp.lifecycle.record import LastEpochValidated, RunRecord, write_rows
from ffbp.lifecycle.threads import automatic_threads, check_threads, usable_cores
from ffbp.lifecycle.trainer import build_trainer, check_limits, computes_bf16_slowly
from ffbp.processes import SIGNALS
from ffbp.settings import Settings, check_settings


class Prepared(NamedTuple):
    """A run with all its parts built, of which nothing is written yet."""

    settings: Settings
    directory: RunDirectory
    data: MemoryData
    algorithm: Algorithm
    trainer: pl.Trainer
    record: RunRecord
    answers: TestAnswers
    checkpoint: Path | None
    started: float

    def summary(self) -> list[str]:
        """What is trained on what, a line each."""
        settings, data, trainer = self.settings, self.data, self.trainer
        parameters = sum(parameter.numel() for parameter in self.algorithm.parameters())
        threads = torch.get_num_threads()
        several = f", {trainer.world_size} processes" if trainer.world_size > 1 else ""
        device = f"{trainer.strategy.root_device.type}{several}, {threads} thread{'s' if threads > 1 else ''}"
        if computes_bf16_slowly(trainer):
            device += f", without instructions for {trainer.precision}: trainer.precision=32-true is much faster"
        return [
            f"{settings['algo']['name']} on {settings['model']['name']}, {parameters:,} parameters",
            f"{_data_name(settings)}: {data.describe()}; batches of {data.batch_size}",
            device,
        ]

    def fit(self) -> dict[str, Any]:
        """Train, test on the best checkpoint, leave everything in the directory, and return what is in metrics.json.

        Raises:
            Refusal: one of its kinds, with a line that says what to do.
        """
        settings, directory, data, algorithm, trainer, record, answers, checkpoint, started = self
        parameters = sum(parameter.numel() for parameter in algorithm.parameters())
        with _lightnings_errors(settings, directory):
            if checkpoint == previous_of(directory.last) and trainer.is_global_zero:
                replace_damaged(directory.last, previous_of(directory.last))
            trainer.fit(algorithm, data, ckpt_path=checkpoint, weights_only=True)
            # before the best checkpoint brings back the record of its epoch
            rows, train_seconds = record.rows, record.clock.seconds
            measuring = [callback for callback in trainer.callbacks if isinstance(callback, Costs)]  # type: ignore[attr-defined]
            costs = {name: figure for callback in measuring for name, figure in callback.counted.items()}
            if trainer.is_global_zero and not record.rehearsal:
                write_rows(directory.rows, rows)  # again, if the run was killed between its last checkpoint and this
            best = None if record.rehearsal else trainer.strategy.broadcast(directory.best)
            [tested] = trainer.test(algorithm, data, ckpt_path=best, weights_only=True, verbose=False)
        results = {"epochs": len(rows), **tested, "val/acc": None, "val/loss": None}
        results |= {name: value for name, value in record.best.items() if name.startswith("val/")}
        results |= {"time/train_seconds": train_seconds, "time/epoch_seconds": train_seconds / max(1, len(rows))}
        results |= {"time/total_seconds": time.perf_counter() - started, **costs}
        metrics = _all_metrics(settings, trainer, parameters, results)
        if data.fingerprint is not None:  # data sets of one name need not be the same
            metrics["images"] = data.fingerprint[:8]
        if trainer.is_global_zero and not record.rehearsal:
            answers.write(directory.predictions, data.test.images)
            write_text(directory.metrics, json.dumps(metrics, indent=2) + "\n")
            # the test has just read the best one; the last two stay, since the run may be trained longer
            previous_of(directory.best).unlink(missing_ok=True)
        return metrics


def prepare(
    settings: Settings, path: Path, *, resume: bool = False, bar: bool | None = None, cores: int | None = None
) -> Prepared:
    """Build all parts of a run; settings that cannot work are rejected here, before anything is written.

    Args:
        settings: that `check_settings` has passed.
        path: of the run directory.
        resume: go on from the last checkpoint there, or from the start if the run never reached one.
        bar: draw a progress bar below the lines of the epochs; None where there is a terminal.
        cores: for the run's threads, over all its processes; None for all that there are.

    Raises:
        Refusal: one of its kinds, with a line that says what to do.
    """
    started = time.perf_counter()
    keep_freed_memory()
    directory = RunDirectory(path)
    with _lightnings_errors(settings, directory):
        pl.seed_everything(settings["seed"], verbose=False)
        data: MemoryData = build("data", settings["data"], seed=settings["seed"])
        algorithm = build_algorithm(settings["algo"], settings["model"], data.image_shape, data.classes)
        # what a checkpoint says of itself: enough to build the model again, and no path of this machine
        algorithm.settings = {name: settings[name] for name in ("algo", "model", "seed")}
        algorithm.settings |= {"data": without_places(settings["data"]), "images_sha256": data.fingerprint}
        algorithm.settings |= {"format": FORMAT, "image_shape": list(data.image_shape), "classes": data.classes}
        algorithm.settings |= {"class_names": data.class_names}
        bar = sys.stdout.isatty() if bar is None else bar
        rehearsal = bool(settings["trainer"]["fast_dev_run"])
        record = RunRecord(directory, **settings["checkpoint"], signals=SIGNALS, rehearsal=rehearsal)
        answers = TestAnswers()
        callbacks = [build(f"callbacks.{name}", part) for name, part in (settings.get("callbacks") or {}).items()]
        if bar:
            callbacks.append(EpochBar())
        trainer = build_trainer(
            settings["trainer"] | {"enable_progress_bar": False, "enable_model_summary": False},
            callbacks=[*callbacks, LastEpochValidated(), answers, record],
            logger=[build(f"logger.{name}", part) for name, part in (settings.get("logger") or {}).items()],
            plugins=[SafeCheckpointIO(path)],
            default_root_dir=path,
        )
        settings = settings | {"threads": _set_threads(settings, algorithm, trainer, data, cores, resume=resume)}
        check_limits(trainer, data)
        algorithm.check_trainer(trainer)
        algorithm.check_batches(trainer, data)
        reject_conflicts(trainer, data, directory)
        if settings["compile"]:
            algorithm.compile_parts()
            require_compiler(trainer.strategy.root_device)
        for callback in callbacks:
            if hasattr(callback, "check_run"):  # which raises a ConfigError for a run that it cannot look at
                callback.check_run(trainer, algorithm)
        trainer.strategy.precision_plugin.convert_module(algorithm)  # before a checkpoint is loaded, which is converted
    checkpoint = checkpoint_to_resume(directory, algorithm, callbacks) if resume else None
    return Prepared(settings, directory, data, algorithm, trainer, record, answers, checkpoint, started)


def train(settings: Settings, path: Path, *, resume: bool = False, bar: bool | None = None) -> dict[str, Any]:
    """Check a run's settings, prepare it and fit it, see `prepare` and `Prepared.fit`."""
    check_settings(settings)
    return prepare(settings, path, resume=resume, bar=bar).fit()


def _set_threads(
    settings: Settings, algorithm: Algorithm, trainer: pl.Trainer, data: MemoryData, cores: int | None, *, resume: bool
) -> int | None:
    """Compute with as many threads as the settings say, in each process of the run, and return the number."""
    threads, processes = settings.get("threads"), trainer.world_size
    share = max(1, (cores or usable_cores()) // processes)
    if threads == "auto":
        threads = automatic_threads(algorithm.stack, -(-data.batch_size // processes), share)
    elif threads is not None and not resume:  # a resumed run keeps its number on any machine
        check_threads(threads, share)
    if threads is not None:
        torch.set_num_threads(threads)
        if processes > 1:  # Lightning sets another number in each process if this is not there
            os.environ["OMP_NUM_THREADS"] = str(threads)
    return threads


@contextmanager
def _lightnings_errors(settings: Settings, directory: RunDirectory) -> Iterator[None]:
    """Say in one line what Lightning and PyTorch raise where a user can do something about it."""
    try:
        yield
    except (MisconfigurationException, NumericError, MemoryError, RuntimeError) as error:
        message, last = " ".join(str(error).split()), directory.last
        saved = f"The last good checkpoint is {last}: test it with {PROGRAM.format('evaluate')} run={last}."
        saved = saved if last.exists() else "There is no checkpoint yet."
        if isinstance(error, MisconfigurationException):  # what Lightning finds incompatible
            raise ConfigError(f"trainer: {message}") from error
        if isinstance(error, NumericError) and not error.checkpoint_is_good:
            raise
        if isinstance(error, NumericError) or "returned nan values" in message:  # what detect_anomaly looks for
            raise NumericError(f"{message} {saved}") from error
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in message:
            size = settings["data"]["batch_size"]
            raise ResourceError(f"out of memory with data.batch_size={size}; try {max(1, size // 2)}.") from error
        if re.search(r"closed by peer|reset by peer|Connection refused|Broken pipe", message, re.IGNORECASE):
            raise ResourceError(f"another process of this run is gone ({message}). {saved}") from error
        raise
    except TypeError as error:  # states that a stranger has taken out of an optimizer are missed at its first step
        if not any("torch.optim" in str(frame.f_globals["__name__"]) for frame, _ in walk_tb(error.__traceback__)):
            raise
        raise CheckpointError(f"{directory.last}: the state of its optimizer cannot be used ({error}).") from error


def _all_metrics(settings: Settings, trainer: pl.Trainer, parameters: int, results: dict[str, Any]) -> dict[str, Any]:
    """Collect the content of metrics.json; `results` are accuracies, losses and times."""
    device = trainer.strategy.root_device
    if device.type == "cuda":  # the most memory that was used on the GPU, else by this process
        name, memory = torch.cuda.get_device_name(device), torch.cuda.max_memory_allocated(device) / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        name, memory = f"{platform.machine()} {device.type}", peak / (2**20 if sys.platform == "darwin" else 2**10)
    return {
        "algo": settings["algo"]["name"],
        "model": settings["model"]["name"],
        "data": _data_name(settings),
        "seed": settings["seed"],
        "parameters": parameters,
        **results,
        "memory/peak_mib": memory,
        "torch": torch.__version__,
        "lightning": version("lightning"),
        "python": platform.python_version(),
        "device": name,
        "threads": torch.get_num_threads(),
        "git": _git_revision(),
    }


def _data_name(settings: Settings) -> str:
    return str(settings["data"].get("name") or settings["data"]["source"])


def _git_revision() -> str | None:
    """The revision of the checkout that runs, `-dirty` where its code differs; None for an installed package."""
    if CHECKOUT is None:
        return None
    data = [f":!results/*.{kind}" for kind in ("json", "md", "png")]  # which a series of runs writes as it goes on
    commands = ["describe", "--always", "--abbrev=12"], ["status", "--porcelain", "--untracked-files=no", "--", *data]
    try:
        git = ["git", "--no-optional-locks", "-C", str(CHECKOUT)]  # which might be in a commit's way
        revision, changed = (
            subprocess.run([*git, *words], capture_output=True, text=True, check=True, timeout=10) for words in commands
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return revision.stdout.strip() + ("-dirty" if changed.stdout else "")
