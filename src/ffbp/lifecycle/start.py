"""How runs begin: in a new directory, or where an earlier one stopped. Imports PyTorch only once it is needed."""

import math
import shlex
import sys
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ffbp.errors import CheckpointError, ConfigError, Interrupted, Refusal
from ffbp.files import PROGRAM
from ffbp.lifecycle.directory import RunDirectory, Status, differences
from ffbp.lifecycle.places import has_own_images, require_known_images, with_whole_path
from ffbp.lifecycle.prune import is_pruned
from ffbp.lifecycle.saved import keep, read_kept, settings_of
from ffbp.lifecycle.threads import usable_cores
from ffbp.processes import FIRST_PROCESS, SIGNALS
from ffbp.settings import Settings, check_names, check_settings, ended_by_the_clock


def start_run(config: DictConfig, path: Path) -> None:
    """Train with the settings that Hydra composed; a ConfigError if anything lies in the directory."""
    directory = RunDirectory(path)
    try:
        if HydraConfig.get().sweeper.get("params"):
            raise ConfigError("+sweep=: gives several values of a setting; add -m.")
        check_places(config, HydraConfig.get().job.chdir)
        with directory.locked():
            directory.require_unused()
            begin_run(config, directory)
    except BaseException:
        if FIRST_PROCESS:
            directory.remove_if_empty()
        raise


def check_places(config: DictConfig, chdir: bool | None) -> None:
    """Raise a ConfigError for settings by which a run would lie in two folders, or look for its images in a third."""
    if chdir:
        raise ConfigError("hydra.job.chdir=true: cannot be set, since paths begin at the folder of the command.")
    place = plain(OmegaConf.create({"paths": config.paths}), resolve=False)["paths"]["output_dir"]
    if place != "${hydra:runtime.output_dir}":
        raise ConfigError(f"paths.output_dir={place}: cannot be set; name a run's directory by hydra.run.dir=.")


def begin_run(config: DictConfig, directory: RunDirectory) -> None:
    """Train from the start; the directory stays as it was if the settings turn out to be impossible."""
    with directory.emptied_if_rejected():
        check_names(plain(config, resolve=False))
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
        kept, longer = _accept_changes(settings, changes, directory)
        if not is_pruned(directory) and not any(word.startswith("data.path=") for word in changes):
            require_known_images(settings, directory)
        continue_run(settings, directory, directory.read_overrides(), kept, longer=longer)


def continue_run(
    settings: Settings,
    directory: RunDirectory,
    overrides: Sequence[str],
    kept: Settings | None = None,
    *,
    longer: bool = False,
) -> None:
    """Train what is left of a run, or say that nothing is.

    Args:
        settings, directory, overrides: of the run.
        kept: what to write down as its settings; None where they stay as they are.
        longer: whether it has been given more epochs.
    """
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
    _train(settings, directory, overrides, kept, resume=True)


def _is_finished(directory: RunDirectory) -> bool:
    status = directory.read_status()
    with suppress(CheckpointError):  # damaged metrics are made again
        return status is not None and status.state == "finished" and directory.read_metrics() is not None
    return False


def command_line() -> list[str]:
    """What the command line of this run, or of this job of a sweep, set."""
    return [str(word) for word in HydraConfig.get().overrides.task]


def plain(config: Any, *, resolve: bool = True) -> Settings:
    """Settings as plain values, all lookups resolved, or as they stand."""
    return cast(Settings, OmegaConf.to_container(config, resolve=resolve))


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


CHANGEABLE = ("trainer.max_epochs", "paths.data_dir", "data.path")


def _accept_changes(
    settings: Settings, changes: Sequence[str], directory: RunDirectory
) -> tuple[Settings | None, bool]:
    """Put a larger number of epochs, or where the data is, into the settings; reject any other difference.

    Returns:
        the settings that the run is to keep, None if they stay as they are; whether there are more epochs.

    Raises:
        CheckpointError: for any other change.
    """
    keeps = "a resumed run keeps its settings"
    after = deepcopy(settings)
    for word in changes:
        name, _, text = word.partition("=")
        *parents, last = name.split(".")
        try:
            part = after
            for parent in parents:
                part = part[parent]
            part[last] = text if name in CHANGEABLE[1:] else _value(text)
        except (OmegaConfBaseException, YAMLError, LookupError, TypeError, ValueError) as error:
            raise CheckpointError(f"{word}: {keeps}. Start a new run instead.") from error
    epochs, most = settings["trainer"]["max_epochs"], after["trainer"]["max_epochs"]
    said = {word.partition("=")[0] for word in changes}
    settings["trainer"]["max_epochs"] = most
    if "paths.data_dir" in said and "data_dir" in settings["data"]:
        for there in (settings["paths"], settings["data"], after["data"]):
            there["data_dir"] = after["paths"]["data_dir"]
    if has_own_images(settings["data"]):
        settings["data"]["path"] = after["data"]["path"]
    wrong = differences(settings, after)
    if not isinstance(most, int) or _as_limit(most) < _as_limit(epochs):
        wrong.append(f"trainer.max_epochs is {epochs} there and can only grow")
    if wrong:
        raise CheckpointError(f"{keeps}: {'; '.join(wrong)}. Start a new run instead.")
    kept = read_kept(directory.config)
    kept["trainer"]["max_epochs"] = most
    if "paths.data_dir" in said:
        kept["paths"]["data_dir"] = str(Path(settings["paths"]["data_dir"]).absolute())
    if "data.path" in said:
        kept["data"] = with_whole_path(kept["data"] | {"path": settings["data"]["path"]})
    return kept if said & {*CHANGEABLE} else None, _as_limit(most) > _as_limit(epochs)


def _value(text: str) -> Any:
    """What a word of the command line says, read as the settings are."""
    return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]  # type: ignore[index,call-overload]


def _as_limit(epochs: int | None) -> float:
    return math.inf if epochs in (None, -1) else float(epochs)
