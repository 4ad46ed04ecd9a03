"""How runs begin: in a new directory, or where an earlier one was broken off."""

import contextlib
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.syntax import Syntax
from yaml import YAMLError

from ffbp.build import require_trust
from ffbp.command_line import FIRST_PROCESS
from ffbp.errors import CheckpointError, ConfigError, Interrupted, Refusal
from ffbp.run import Settings, nearby_runs, train, write_status


def start_run(config: DictConfig, directory: Path) -> None:
    """Train in a new directory.

    Args:
        config: as Hydra composed it.
        directory: of the run; holds nothing yet but Hydra's own .hydra.
    """
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())  # as one would type it
    settings = _plain(config)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    if sweep and "ddp" in str(settings["trainer"]["strategy"]):
        raise ConfigError("-m with trainer=ddp: each process would start the sweep again; run the jobs one by one.")
    if FIRST_PROCESS and (directory / "status.json").exists():
        raise ConfigError(f"{directory}: holds a run. Choose another hydra.sweep.dir.")
    _run(settings, directory, resume=False, sweep=sweep)


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
    try:
        config = OmegaConf.load(directory / ".hydra" / "config.yaml")
        OmegaConf.update(config, "paths.output_dir", str(directory))
        settings = _plain(config)
    except (OSError, YAMLError, OmegaConfBaseException, TypeError) as error:
        raise CheckpointError(f"{directory}: no run there that can be resumed.{nearby_runs(directory)}") from error
    require_trust(settings, trust)
    settings["debug"] = debug
    _accept_changes(settings, wanted)
    metrics = directory / "metrics.json"
    if metrics.exists() and json.loads(metrics.read_text())["epochs"] >= settings["trainer"]["max_epochs"]:
        print(f"{directory}: finished. More epochs with trainer.max_epochs=, the results with python evaluate.py.")
        return
    metrics.unlink(missing_ok=True)
    _run(settings, directory, resume=True)


def _accept_changes(settings: Settings, wanted: Any) -> None:
    """Put a larger number of epochs into the settings; refuse any other difference."""
    epochs = OmegaConf.select(wanted, "trainer.max_epochs")
    differences = [
        f"{key} is {_select(settings, key)!r} there, {value!r} here"
        for key, value in _leaves("", OmegaConf.to_container(wanted))
        if key != "trainer.max_epochs" and _select(settings, key) != value
    ]
    if epochs is not None:
        if not isinstance(epochs, int) or epochs < settings["trainer"]["max_epochs"]:
            differences.append(f"trainer.max_epochs is {settings['trainer']['max_epochs']} there and can only grow")
        settings["trainer"]["max_epochs"] = epochs
    if differences:
        raise CheckpointError(f"a resumed run keeps its settings: {'; '.join(differences)}. Start a new run instead.")


def _run(settings: Settings, directory: Path, *, resume: bool, sweep: bool = False) -> None:
    """Train and keep status.json true, whatever happens."""
    if FIRST_PROCESS:
        print(f"run directory: {directory}")
    if FIRST_PROCESS and not resume:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(Syntax(OmegaConf.to_yaml(_shown(settings)), "yaml", background_color="default"))
    if not FIRST_PROCESS:
        train(settings, directory, resume=resume, bar=False)
        return
    try:
        metrics = train(settings, directory, resume=resume)
    except Interrupted as error:
        write_status(directory, "interrupted", str(error))
        raise
    except Refusal as error:
        if sweep or (directory / "status.json").exists():
            write_status(directory, "failed", str(error))
        else:
            _forget(directory)
        raise
    except BaseException as error:
        write_status(directory, "failed", f"{type(error).__name__}: {error}")
        raise
    accuracies = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items() if name.startswith("test/"))
    print(f"{accuracies}  ({metrics['time/train_seconds']:.1f} s of training)")


def _forget(directory: Path) -> None:
    """Take back what Hydra wrote for a run that was refused before it began."""
    shutil.rmtree(directory / ".hydra", ignore_errors=True)
    with contextlib.suppress(OSError):  # something else lives there
        directory.rmdir()


def _plain(config: Any) -> Settings:
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def _shown(settings: Settings) -> Settings:
    """The settings without what is only plumbing."""
    return {name: value for name, value in settings.items() if name not in ("paths", "callbacks", "logger", "resume")}


def _select(settings: Settings, key: str) -> Any:
    node: Any = settings
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def _leaves(prefix: str, node: Any) -> list[tuple[str, Any]]:
    if not isinstance(node, dict):
        return [(prefix, node)]
    return [leaf for name, child in node.items() for leaf in _leaves(f"{prefix}.{name}" if prefix else name, child)]
