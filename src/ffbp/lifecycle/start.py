"""How runs begin: in a new directory, or where an earlier one stopped. Imports PyTorch only once it is needed."""

import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ffbp.errors import CheckpointError, Interrupted, Refusal
from ffbp.files import PROGRAM
from ffbp.lifecycle.directory import RunDirectory, Status, differences
from ffbp.lifecycle.places import has_own_images, require_known_images
from ffbp.lifecycle.prune import is_pruned
from ffbp.lifecycle.saved import keep, read_kept, settings_of
from ffbp.lifecycle.threads import usable_cores
from ffbp.processes import FIRST_PROCESS, SIGNALS
from ffbp.settings import Settings, check_settings, ended_by_the_clock


def start_run(config: DictConfig, path: Path) -> None:
    """Train with the settings that Hydra composed; a ConfigError if anything lies in the directory."""
    directory = RunDirectory(path)
    try:
        with directory.locked():
            directory.require_unused()
            begin_run(config, directory)
    except BaseException:
        if FIRST_PROCESS:
            directory.remove_if_empty()
        raise


def begin_run(config: DictConfig, directory: RunDirectory) -> None:
    """Train from the start; the directory stays as it was if the settings turn out to be impossible."""
    with directory.emptied_if_rejected():
        _train(plain(config), directory, command_line(), keep(config))


def resume_run(path: Path, changes: Sequence[str], *, trust: Sequence[str] = (), debug: bool = False) -> None:
    """Continue in a run's directory, with the settings it was started with; a CheckpointError if others are asked for.

    `changes` are words of the command line: trainer.max_epochs=<more>, paths.data_dir=<folder> and data.path=<place>
    at most.
    """
    directory = RunDirectory(path)
    with directory.locked() if directory.config.exists() else nullcontext():
        settings = settings_of(directory, trust)
        settings["debug"] = debug
        longer = _accept_changes(settings, OmegaConf.from_dotlist(list(changes)))
        if not is_pruned(directory) and not any(word.startswith("data.path=") for word in changes):
            require_known_images(settings, directory)
        continue_run(settings, directory, directory.read_overrides(), longer=longer)


def continue_run(
    settings: Settings, directory: RunDirectory, overrides: Sequence[str], *, longer: bool = False
) -> None:
    """Train what is left of a run, or say that nothing is; `longer` if it has been given more epochs."""
    evaluate = PROGRAM.format("evaluate")
    if is_pruned(directory):
        said = f"{directory}: its last checkpoint was pruned, so it cannot be trained longer"
        if longer or not _is_finished(directory):
            raise CheckpointError(f"{said}; start a new run, or test this one with {evaluate}.")
        print(f"{said}. It is finished; test it with {evaluate}.")
        return
    if not longer and _is_finished(directory):
        print(f"{directory}: finished. Train longer with trainer.max_epochs=, or test with {evaluate}.")
        return
    if ended_by_the_clock(settings):
        raise CheckpointError(
            f"{directory}: trainer.max_time ends it by the clock, so it cannot be resumed; start anew."
        )
    kept = None
    if longer:
        kept = read_kept(directory.config)
        kept["trainer"]["max_epochs"] = settings["trainer"]["max_epochs"]
    _train(settings, directory, overrides, kept, resume=True)


def _is_finished(directory: RunDirectory) -> bool:
    status = directory.read_status()
    with suppress(CheckpointError):  # damaged metrics are made again
        return status is not None and status.state == "finished" and directory.read_metrics() is not None
    return False


def command_line() -> list[str]:
    """What the command line of this run, or of this job of a sweep, set."""
    return [str(word) for word in HydraConfig.get().overrides.task]


def plain(config: Any) -> Settings:
    """Settings as plain values, all lookups resolved."""
    return cast(Settings, OmegaConf.to_container(config, resolve=True))


def write_end(directory: RunDirectory, overrides: Sequence[str], error: BaseException) -> None:
    """Write down what ended a run that had begun."""
    state = "interrupted" if isinstance(error, Interrupted | SystemExit | KeyboardInterrupt) else "failed"
    line = str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
    with suppress(Refusal):  # a full disk, which is what `error` says
        earlier = directory.read_status()
        if earlier is not None and earlier.state == "running":
            directory.write_status(Status(state, overrides, line))


def _train(
    settings: Settings,
    directory: RunDirectory,
    overrides: Sequence[str],
    kept: Settings | None,
    *,
    resume: bool = False,
) -> None:
    """Train, and keep status.json true whatever happens once the run has begun.

    `kept` is what to write down as the run's settings; None where they stay as they are.
    """
    check_settings(settings)
    SIGNALS.listen(at_once=True)
    from ffbp.lifecycle.train import prepare  # here, so that a rejected setting need not wait for PyTorch

    bar = None if FIRST_PROCESS else False
    prepared = prepare(settings, directory.path, resume=resume, bar=bar, cores=_cores_of_a_job())
    SIGNALS.listen()
    if not FIRST_PROCESS:
        prepared.fit()
        return
    directory.remove_incomplete()
    if kept is not None:
        directory.write_settings(kept | {"threads": prepared.settings["threads"]}, overrides)
    directory.write_status(Status("running", overrides))
    try:
        words = shlex.join(overrides) or "the defaults"
        where = f"run directory: {directory}, with all settings in {directory.config.relative_to(directory.path)}"
        print("\n".join([*prepared.summary(), f"settings: {words}", where]), flush=True)
        if ended_by_the_clock(settings):
            print("ended by the clock (trainer.max_time): if it is broken off, it cannot be resumed", file=sys.stderr)
        metrics = prepared.fit()
    except BaseException as error:
        write_end(directory, overrides, error)
        raise
    directory.write_status(Status("finished", overrides))
    accuracies = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.startswith("test/"))
    print(f"{accuracies}  ({metrics['time/train_seconds']:.1f} s of training)")


def _cores_of_a_job() -> int | None:
    """How many of this machine's cores a job of a sweep has beside the others; None for all, as a single run has."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    launcher = HydraConfig.get().launcher
    jobs = launcher.get("n_jobs") or 1  # joblib's; -1 for one on each core
    return launcher.get("cpus_per_task") or max(1, usable_cores() // (jobs if jobs > 0 else usable_cores()))


def _accept_changes(settings: Settings, wanted: DictConfig) -> bool:
    """Put a larger number of epochs, or where the data is, into the settings; reject any other difference.

    Returns whether there are more epochs than before.
    """
    keeps = "a resumed run keeps its settings"
    try:
        after = plain(OmegaConf.merge(OmegaConf.create(settings), wanted))
        epochs, most = settings["trainer"]["max_epochs"], after["trainer"]["max_epochs"]
    except (OmegaConfBaseException, TypeError, ValueError) as error:
        words = " ".join(f"{name}={value}" for name, value in plain(wanted).items())
        raise CheckpointError(f"{words}: {keeps}. Start a new run instead.") from error
    settings["trainer"]["max_epochs"] = most
    if "paths" in wanted and "data_dir" in settings["data"]:
        for there in (settings["paths"], settings["data"], after["data"]):
            there["data_dir"] = after["paths"]["data_dir"]
    if has_own_images(settings["data"]):
        settings["data"]["path"] = after["data"]["path"]
    wrong = differences(settings, after)
    if not isinstance(most, int) or most < epochs:
        wrong.append(f"trainer.max_epochs is {epochs} there and can only grow")
    if wrong:
        raise CheckpointError(f"{keeps}: {'; '.join(wrong)}. Start a new run instead.")
    return bool(most > epochs)
