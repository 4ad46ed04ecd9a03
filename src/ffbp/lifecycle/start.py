"""How runs begin: in a new directory, or where an earlier one stopped. Imports PyTorch only once it is needed."""

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.syntax import Syntax
from yaml import YAMLError

from ffbp.errors import CheckpointError, ConfigError, Interrupted, Refusal
from ffbp.files import PROGRAM
from ffbp.lifecycle.directory import RunDirectory, Status, differences, nearby_runs
from ffbp.lifecycle.trust import require_no_lookups, require_trust
from ffbp.lifecycle.upgrades import upgrade_settings
from ffbp.processes import FIRST_PROCESS
from ffbp.settings import Settings, check_settings


def start_run(config: DictConfig, path: Path) -> None:
    """Train with the settings that Hydra composed; a ConfigError if the directory already contains a run."""
    directory = RunDirectory(path)
    try:
        with directory.locked():
            if FIRST_PROCESS and directory.read_status() is not None:
                raise ConfigError(f"{path}: already contains a run; resume it with resume={path}, or choose another.")
            begin_run(config, directory)
    except Refusal:
        if FIRST_PROCESS:
            directory.remove_if_empty()
        raise


def begin_run(config: DictConfig, directory: RunDirectory) -> None:
    """Train from the start; the directory stays as it was if the settings turn out to be impossible."""
    with directory.emptied_if_rejected():
        _train(plain(config), directory, command_line(), config)


def resume_run(words: Sequence[str]) -> None:
    """Continue in a run's directory, with the settings it was started with; a CheckpointError if others are asked for.

    `words` are the command line: resume=<directory>, and trainer.max_epochs=<more>, debug= and trust= at most.
    """
    wanted = OmegaConf.from_dotlist(list(words))
    directory = RunDirectory(Path(str(wanted.pop("resume"))))
    debug, trust = wanted.pop("debug", False), wanted.pop("trust", [])
    settings = saved_settings(directory, trust)
    settings["debug"] = debug
    _accept_changes(settings, wanted)
    require_trust(settings, trust)
    with directory.locked():
        continue_run(settings, directory, directory.read_overrides())


def continue_run(settings: Settings, directory: RunDirectory, overrides: Sequence[str]) -> None:
    """Train what is left of a run, or say that nothing is."""
    metrics = directory.read_metrics()
    if metrics is None or metrics["epochs"] < settings["trainer"]["max_epochs"]:
        _train(settings, directory, overrides)
        return
    print(f"{directory}: finished. Train longer with trainer.max_epochs=, or test with {PROGRAM.format('evaluate')}.")
    if FIRST_PROCESS:
        directory.write_status(Status("finished", overrides))


def saved_settings(directory: RunDirectory, trust: Sequence[str] | None = None) -> Settings:
    """The settings of a run, from its .hydra; a CheckpointError if there are none that can be used.

    `trust` is what the user vouches for; None for a run that the same command has started.
    """
    try:
        config = OmegaConf.load(directory.config)
        if trust is not None:
            require_no_lookups(OmegaConf.to_container(config), trust)
        OmegaConf.update(config, "paths.output_dir", str(directory))
        settings = upgrade_settings(plain(config))
        check_settings(settings)
        return settings
    except ConfigError as error:
        raise CheckpointError(f"{directory}: its settings cannot be used: {error}") from error
    except (OSError, YAMLError, OmegaConfBaseException, TypeError) as error:
        raise CheckpointError(f"{directory}: contains no run to resume.{nearby_runs(directory.path)}") from error


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
    with contextlib.suppress(Refusal):  # a full disk, which is what `error` says
        earlier = directory.read_status()
        if earlier is not None and earlier.state == "running":
            directory.write_status(Status(state, overrides, line))


def _train(
    settings: Settings, directory: RunDirectory, overrides: Sequence[str], config: DictConfig | None = None
) -> None:
    """Train, and keep status.json true whatever happens once the run has begun.

    `config` is what to keep as the settings of a new run; None to resume.
    """
    check_settings(settings)
    from ffbp.lifecycle.train import prepare  # here, so that a rejected setting need not wait for PyTorch

    prepared = prepare(settings, directory.path, resume=config is None, bar=None if FIRST_PROCESS else False)
    if not FIRST_PROCESS:
        prepared.fit()
        return
    if config is None:
        directory.metrics.unlink(missing_ok=True)
    else:
        hydra = HydraConfig.get()
        directory.write_settings(config, OmegaConf.create({"hydra": hydra}), hydra.overrides.task)
    directory.write_status(Status("running", overrides))
    try:
        print(f"run directory: {directory}")
        if config is not None:
            plumbing = ("paths", "callbacks", "logger", "resume")
            shown = OmegaConf.to_yaml({name: part for name, part in settings.items() if name not in plumbing})
            Console(width=None if sys.stdout.isatty() else 120).print(Syntax(shown, "yaml", background_color="default"))
            print(prepared.summary(), flush=True)
        metrics = prepared.fit()
    except BaseException as error:
        write_end(directory, overrides, error)
        raise
    directory.write_status(Status("finished", overrides))
    accuracies = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.startswith("test/"))
    print(f"{accuracies}  ({metrics['time/train_seconds']:.1f} s of training)")


def _accept_changes(settings: Settings, wanted: DictConfig) -> None:
    """Put a larger number of epochs into the settings; reject any other difference."""
    after = plain(OmegaConf.merge(OmegaConf.create(settings), wanted))
    epochs, most = settings["trainer"]["max_epochs"], after["trainer"]["max_epochs"]
    settings["trainer"]["max_epochs"] = most
    wrong = differences(settings, after)
    if not isinstance(most, int) or most < epochs:
        wrong.append(f"trainer.max_epochs is {epochs} there and can only grow")
    if wrong:
        raise CheckpointError(f"a resumed run keeps its settings: {'; '.join(wrong)}. Start a new run instead.")
