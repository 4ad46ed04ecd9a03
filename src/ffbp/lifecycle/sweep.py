"""Sweeps: what is done for each job, and what became of all of them."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ffbp.errors import CheckpointError, ConfigError
from ffbp.files import write_text
from ffbp.lifecycle.directory import RunDirectory, Status, differences
from ffbp.lifecycle.saved import settings_of
from ffbp.lifecycle.start import begin_run, command_line, continue_run, plain, write_end
from ffbp.processes import SIGNALS


def run_job(config: DictConfig, path: Path) -> None:
    """Do one job of a sweep: start it, continue where an earlier sweep stopped, or skip it if it is finished."""
    directory, overrides = RunDirectory(path), command_line()
    earlier = directory.read_status()
    if earlier is not None and (other := _other_settings(config, directory, earlier.overrides, overrides)):
        error = ConfigError(f"{path}: contains a run with other settings ({other}). Choose another hydra.sweep.dir.")
        directory.write_status(earlier._replace(error=str(error)))  # for the sweep; all else is left as it is
        raise error
    if earlier is not None and earlier.state == "finished":
        directory.write_status(earlier._replace(error=None))
        print(f"{path}: finished, skipped")
        return
    with directory.locked():
        directory.write_status(Status("running", overrides))
        try:
            if any(path.glob("checkpoints/last*.ckpt")):
                continue_run(settings_of(directory, trust=None), directory, overrides)
                return
            if "ddp" in str(config.trainer.strategy):
                raise ConfigError("trainer.strategy=ddp: not in a sweep, which each process would start again.")
            begin_run(config, directory)
        except BaseException as error:
            write_end(directory, overrides, error)
            raise


def _other_settings(config: DictConfig, directory: RunDirectory, before: Sequence[str], now: Sequence[str]) -> str:
    """How the settings of the run in `directory` differ from those composed now; empty where they do not.

    The same overrides may mean something else by now, where a YAML was changed between two starts of a sweep.
    """
    if sorted(before) != sorted(now):
        return " ".join(before)
    if not directory.config.exists():  # it never began
        return ""
    elsewhere = {"paths": None, "debug": None}  # may differ
    return "; ".join(differences(settings_of(directory, trust=None) | elsewhere, plain(config) | elsewhere)[:3])


class SweepTable(Callback):
    """Show what became of all jobs; end with exit code 1 if any is not finished, or with that of a signal."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        jobs = summarise(Path(config.hydra.sweep.dir))
        broken = any(job["state"] != "finished" or job["error"] for job in jobs)
        if SIGNALS.received is not None or broken:
            raise SystemExit(1 if SIGNALS.received is None else 128 + SIGNALS.received)


def summarise(path: Path) -> list[dict[str, Any]]:
    """Print one table of all jobs of a sweep and leave it in sweep.json.

    A job that is said to be running, but that no process holds, has been killed.
    """
    jobs = [_outcome(RunDirectory(status.parent)) for status in sorted(path.glob("*/status.json"), key=_job_number)]
    write_text(path / "sweep.json", json.dumps(jobs, indent=2) + "\n")
    table = Table("job", "state", "test/acc", "error", title=str(path))
    for job in jobs:
        accuracy = f"{job['test/acc']:.4f}" if job["test/acc"] is not None else ""
        table.add_row(job["job"], job["state"], accuracy, job["error"] or "")
    Console(width=None if Console().is_terminal else 200).print(table)
    return jobs


def _outcome(directory: RunDirectory) -> dict[str, Any]:
    try:
        status = directory.read_status()
        assert status is not None
        if status.state == "running":
            with suppress(ConfigError), directory.locked():
                status = Status("failed", status.overrides, "its process was killed; the same command resumes it")
                directory.write_status(status)
    except CheckpointError as error:
        status = Status("failed", [], str(error))
    metrics = directory.read_metrics() or {"test/acc": None}
    return {"job": directory.path.name, "state": status.state, "error": status.error, "test/acc": metrics["test/acc"]}


def _job_number(status: Path) -> tuple[int, str]:
    number = status.parent.name.split("_")[0]
    return (int(number) if number.isdigit() else -1), status.parent.name
