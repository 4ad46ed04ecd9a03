"""How runs begin: in a new directory, or where an earlier one was broken off. Imports no PyTorch before it must."""

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.syntax import Syntax
from yaml import YAMLError

from ffbp.command_line import FIRST_PROCESS
from ffbp.errors import CheckpointError, ConfigError, Interrupted, Refusal
from ffbp.files import write_text
from ffbp.run_directory import Status, differences, locked, nearby_runs, read_overrides, read_status, write_status
from ffbp.settings import check_settings
from ffbp.trust import require_no_lookups, require_trust
from ffbp.upgrades import upgrade

Settings = dict[str, Any]


def start_run(config: DictConfig, directory: Path) -> None:
    """Train in a new directory.

    Args:
        config: as Hydra composed it.
        directory: of the run.

    Raises:
        ConfigError: if a setting is out of range, or a run lies there.
    """
    overrides, begun = _overrides(), False
    with contextlib.ExitStack() as alone:

        def begin() -> None:
            nonlocal begun
            directory.mkdir(parents=True, exist_ok=True)
            alone.enter_context(locked(directory))
            begun = True
            _write_settings(config, directory)
            write_status(directory, Status("running", overrides))

        try:
            settings = _plain(config)
            check_settings(settings)
            if FIRST_PROCESS and read_status(directory) is not None:
                raise ConfigError(f"{directory}: holds a run. Go on with resume={directory}, or choose another.")
            _run(settings, directory, overrides, begin=begin)
        except Refusal as error:
            if begun and isinstance(error, ConfigError):
                _forget(directory)
            if FIRST_PROCESS:
                _remove_empty(directory)
            raise


def run_job(config: DictConfig, directory: Path) -> None:
    """Do one job of a sweep: start it, go on where an earlier sweep was broken off, or skip it if it is finished.

    Args:
        config: as Hydra composed it.
        directory: of the job.

    Raises:
        ConfigError: if a setting is out of range, or a run of other settings lies there.
    """
    overrides, earlier = _overrides(), read_status(directory)
    if earlier is not None and (other := _other_settings(config, directory, earlier.overrides, overrides)):
        error = ConfigError(f"{directory}: holds a run of other settings ({other}). Choose another hydra.sweep.dir.")
        write_status(directory, earlier._replace(error=str(error)))  # for the sweep; all else is left as it is
        raise error
    if earlier is not None and earlier.state == "finished":
        write_status(directory, earlier._replace(error=None))
        print(f"{directory}: finished, skipped")
        return
    with locked(directory):
        write_status(directory, Status("running", overrides))
        try:
            if any(directory.glob("checkpoints/last*.ckpt")):
                _go_on(_saved_settings(directory), directory, overrides)
                return
            settings = _plain(config)
            check_settings(settings)
            if "ddp" in str(settings["trainer"]["strategy"]):
                raise ConfigError("trainer.strategy=ddp: not in a sweep, which each process would start again.")
            _run(settings, directory, overrides, begin=lambda: _write_settings(config, directory))
        except BaseException as error:
            _write_end(directory, overrides, error)
            raise


def _other_settings(config: DictConfig, directory: Path, before: Sequence[str], overrides: Sequence[str]) -> str:
    """How the settings of the run in `directory` differ from those composed now; empty where they do not.

    The same words may mean something else by now, where a YAML was changed between two starts of a sweep.
    """
    if sorted(before) != sorted(overrides):
        return " ".join(before)
    if not (directory / ".hydra" / "config.yaml").exists():  # it never began
        return ""
    of_a_place = {"paths": None, "debug": None}
    changed = differences(_saved_settings(directory) | of_a_place, _plain(config) | of_a_place)
    return "; ".join(changed[:3])


def resume_run(words: Sequence[str]) -> None:
    """Go on in a run's directory, with the settings it was started with.

    Args:
        words: the command line: resume=<directory>, and trainer.max_epochs=<more>, debug= and trust= at most.

    Raises:
        CheckpointError: if there is nothing to go on from, or other settings are asked for.
    """
    wanted = OmegaConf.from_dotlist(list(words))
    directory = Path(str(wanted.pop("resume")))
    debug, trust = wanted.pop("debug", False), wanted.pop("trust", [])
    settings = _saved_settings(directory, trust)
    settings["debug"] = debug
    _accept_changes(settings, wanted)
    require_trust(settings, trust)
    with locked(directory) if FIRST_PROCESS else contextlib.nullcontext():
        _go_on(settings, directory, read_overrides(directory))


def _go_on(settings: Settings, directory: Path, overrides: Sequence[str]) -> None:
    """Train what is left of a run, or say that nothing is."""
    metrics = directory / "metrics.json"
    if metrics.exists() and json.loads(metrics.read_text())["epochs"] >= settings["trainer"]["max_epochs"]:
        print(f"{directory}: finished. More epochs with trainer.max_epochs=, the results with python evaluate.py.")
        if FIRST_PROCESS:
            write_status(directory, Status("finished", overrides))
        return

    def begin() -> None:
        metrics.unlink(missing_ok=True)
        write_status(directory, Status("running", overrides))

    _run(settings, directory, overrides, resume=True, begin=begin)


def _saved_settings(directory: Path, trust: Sequence[str] | None = None) -> Settings:
    """The settings of a run, from its .hydra.

    Args:
        directory: of the run.
        trust: what the user vouches for; None for a run of this very command.

    Raises:
        CheckpointError: if there are none, or they would look something up here.
    """
    try:
        config = OmegaConf.load(directory / ".hydra" / "config.yaml")
        if trust is not None:
            require_no_lookups(OmegaConf.to_container(config), trust)
        OmegaConf.update(config, "paths.output_dir", str(directory))
        settings = upgrade(_plain(config))
        check_settings(settings)
        return settings
    except ConfigError as error:
        raise CheckpointError(f"{directory}: its settings cannot be used: {error}") from error
    except (OSError, YAMLError, OmegaConfBaseException, TypeError) as error:
        raise CheckpointError(f"{directory}: no run there that can be resumed.{nearby_runs(directory)}") from error


def _accept_changes(settings: Settings, wanted: DictConfig) -> None:
    """Put a larger number of epochs into the settings; refuse any other difference."""
    before = OmegaConf.create(settings)
    after = _plain(OmegaConf.merge(before, wanted))
    epochs, most = settings["trainer"]["max_epochs"], after["trainer"]["max_epochs"]
    settings["trainer"]["max_epochs"] = most
    wrong = differences(settings, after)
    if not isinstance(most, int) or most < epochs:
        wrong.append(f"trainer.max_epochs is {epochs} there and can only grow")
    if wrong:
        raise CheckpointError(f"a resumed run keeps its settings: {'; '.join(wrong)}. Start a new run instead.")


def _run(
    settings: Settings, directory: Path, overrides: Sequence[str], *, begin: Callable[[], None], resume: bool = False
) -> None:
    """Train, and keep status.json true, whatever happens once the run has begun."""
    from ffbp.run import train  # here, so that a refused setting need not wait for PyTorch

    if not FIRST_PROCESS:
        train(settings, directory, resume=resume, bar=False)
        return

    def begin_and_show() -> None:
        begin()
        print(f"run directory: {directory}")
        if not resume:
            console = Console(width=None if sys.stdout.isatty() else 120)
            console.print(Syntax(OmegaConf.to_yaml(_shown(settings)), "yaml", background_color="default"))

    try:
        metrics = train(settings, directory, resume=resume, begin=begin_and_show)
    except BaseException as error:
        _write_end(directory, overrides, error)
        raise
    write_status(directory, Status("finished", overrides))
    accuracies = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.startswith("test/"))
    print(f"{accuracies}  ({metrics['time/train_seconds']:.1f} s of training)")


def _write_end(directory: Path, overrides: Sequence[str], error: BaseException) -> None:
    """Write down what ended a run that had begun."""
    state = "interrupted" if isinstance(error, Interrupted | SystemExit | KeyboardInterrupt) else "failed"
    line = str(error) if isinstance(error, Refusal) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(Refusal):  # a full disk, which is what `error` says
        earlier = read_status(directory)
        if earlier is not None and earlier.state == "running":
            write_status(directory, Status(state, overrides, line))


def _write_settings(config: DictConfig, directory: Path) -> None:
    """Keep the settings where Hydra would, once the run begins and not before: config.yaml last."""
    folder = directory / ".hydra"
    write_text(folder / "hydra.yaml", OmegaConf.to_yaml(OmegaConf.create({"hydra": HydraConfig.get()})))
    write_text(folder / "overrides.yaml", OmegaConf.to_yaml(HydraConfig.get().overrides.task))
    write_text(folder / "config.yaml", OmegaConf.to_yaml(config))


def _overrides() -> list[str]:
    return [str(word) for word in HydraConfig.get().overrides.task]


def _forget(directory: Path) -> None:
    """Take back what was written for a run that was refused before its first step."""
    shutil.rmtree(directory / ".hydra", ignore_errors=True)
    for path in (directory / "status.json", directory / "hparams.yaml", *directory.glob("events.out.tfevents.*")):
        path.unlink(missing_ok=True)


def _remove_empty(directory: Path) -> None:
    with contextlib.suppress(OSError):  # something lives there
        directory.rmdir()


def _plain(config: Any) -> Settings:
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def _shown(settings: Settings) -> Settings:
    """The settings without what is only plumbing."""
    return {name: value for name, value in settings.items() if name not in ("paths", "callbacks", "logger", "resume")}
