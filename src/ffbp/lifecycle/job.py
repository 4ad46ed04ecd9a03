"""A job of a sweep: where it lies, what is done for it, and how it stands."""

import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ffbp.errors import CheckpointError, ConfigError
from ffbp.lifecycle.directory import RunDirectory, Status, differences
from ffbp.lifecycle.saved import keep, read_kept
from ffbp.lifecycle.start import begin_run, command_line, continue_run, plain, write_end
from ffbp.lifecycle.upgrades import upgrade_settings
from ffbp.settings import Settings, check_settings

NOT_OF_THE_RUN = re.compile(r"[+~]*(hydra|paths|sweep|debug)\b")
"""Overrides that say how and where a job runs, and not what it computes."""

STATES = ("running", "finished", "failed", "interrupted")

LONGEST_NAME = 120  # bytes; file systems take 255

ONE_BY_ONE = "each process would start the sweep again; run the jobs one by one."


def job_folder(overrides: Sequence[str]) -> str:
    """Name the folder of a job after its overrides, in characters that need no quotes in any shell.

    The name depends neither on their order nor on the other jobs, so a sweep that is extended finds what it has. Where
    it is not what was typed, a checksum keeps different overrides apart.
    """
    words = [word for word in overrides if not NOT_OF_THE_RUN.match(word)]
    words.sort(key=lambda word: (word.partition("=")[0].count("."), word))  # seed=0 before algo.optimizer.lr=0.1
    typed = ",".join(words)
    safe = [re.sub(r"[^\w.=+-]+", "-", re.sub(r"[]['\"(){}]", "", word), flags=re.ASCII) for word in words]
    name = ",".join(safe).lstrip("-.") or "default"
    if name == typed and len(name) <= LONGEST_NAME:
        return name
    checksum = hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - 9]}@{checksum}"


# for hydra.sweep.subdir; here, since the workers of any launcher import this file before they look it up
OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


def run_job(config: DictConfig, path: Path) -> None:
    """Do one job of a sweep: start it, continue where an earlier sweep stopped, or skip it if it is finished."""
    directory, overrides = RunDirectory(path), command_line()
    with directory.locked():
        earlier = standing(directory)
        if not directory.config.exists() and directory.read_status() is None:
            directory.require_unused()
        try:
            _require_same_settings(config, directory)
        except Exception as error:  # is written down for the sweep; all else is left as it is
            state = "finished" if earlier.state == "finished" else "failed"
            directory.write_status(Status(state, earlier.overrides or overrides, str(error)))
            raise
        if earlier.state == "finished":
            if earlier.error:
                directory.write_status(earlier._replace(error=None))
            print(f"{path}: finished, skipped")
            return
        directory.write_status(Status("running", overrides))
        try:
            settings = plain(config)
            _require_one_process(settings)
            if any(path.glob("checkpoints/last*.ckpt")):
                directory.metrics.unlink(missing_ok=True)  # it may be damaged
                if directory.config.exists():
                    settings["threads"] = _settings_there(directory)["threads"]
                continue_run(settings, directory, overrides)
            else:
                begin_run(config, directory)
        except BaseException as error:
            write_end(directory, overrides, error)
            raise


def _require_same_settings(config: DictConfig, directory: RunDirectory) -> None:
    """Raise a ConfigError if a run with other settings lies in the directory.

    The same overrides may mean something else by now, where a YAML was changed between two starts of a sweep.
    """
    if not directory.config.exists():  # it never began
        return
    there, here = _settings_there(directory), upgrade_settings(keep(config))
    if here["threads"] == "auto":
        here["threads"] = there["threads"]  # whatever was chosen
    if other := "; ".join(differences(there | {"paths": None}, here | {"paths": None})[:3]):
        raise ConfigError(f"{directory}: contains a run with other settings ({other}). Choose another hydra.sweep.dir.")


def _settings_there(directory: RunDirectory) -> Settings:
    return upgrade_settings(read_kept(directory.config))


def _require_one_process(settings: Settings) -> None:
    """Raise a ConfigError if Lightning would start further processes, each with the command of the whole sweep."""
    check_settings(settings)
    from ffbp.lifecycle.trainer import build_trainer

    trainer = settings["trainer"]
    bare = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    if "ddp" in str(trainer.get("strategy")):
        raise ConfigError(f"trainer.strategy={trainer['strategy']} in a sweep: {ONE_BY_ONE}")
    if build_trainer(trainer | bare).world_size > 1:
        raise ConfigError(f"trainer.devices={trainer['devices']} in a sweep: {ONE_BY_ONE}")


def standing(directory: RunDirectory) -> Status:
    """How a job stands by all of its files, any of which may be missing or damaged."""
    try:
        status = directory.read_status()
    except CheckpointError:
        status = None
    if status is None or status.state not in STATES or not isinstance(status.error, str | None):
        return Status("failed", [], "its status.json is missing or damaged; the same command goes on with it")
    if status.state == "finished" and directory.last.exists() and accuracy(directory, "test/acc") is None:
        return Status("failed", [], "its metrics.json is missing or damaged; the same command writes it again")
    return status


def score(directory: RunDirectory) -> float:
    """The validation accuracy of a finished run, for sweepers that look for the best; NaN where there is none."""
    best = accuracy(directory, "val/acc")
    return math.nan if best is None else best


def accuracy(directory: RunDirectory, name: str) -> float | None:
    """An accuracy from metrics.json; None if it is not there."""
    try:
        value = (directory.read_metrics() or {})[name]
        return None if value is None else float(value)
    except Exception:  # whatever is wrong with the file
        return None
