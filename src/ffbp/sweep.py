"""The end of a multirun: what became of each job."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ffbp.errors import CheckpointError, ConfigError
from ffbp.files import write_text
from ffbp.run_directory import Status, locked, read_status, write_status
from ffbp.signals import SIGNALS


class SweepTable(Callback):
    """Show what became of all jobs; end with exit code 1 if any is not finished, or with that of a signal."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        jobs = summarise(Path(config.hydra.sweep.dir))
        if SIGNALS.received is not None:
            raise SystemExit(128 + SIGNALS.received)
        if any(job["state"] != "finished" or job["error"] for job in jobs):
            raise SystemExit(1)


def summarise(directory: Path) -> list[dict[str, Any]]:
    """Print one table of all jobs of a sweep and leave it in sweep.json.

    A job that is said to be running, but that no process holds, has been killed.
    """
    jobs = [_outcome(status.parent) for status in sorted(directory.glob("*/status.json"), key=_job_number)]
    write_text(directory / "sweep.json", json.dumps(jobs, indent=2) + "\n")
    table = Table("job", "state", "test/acc", "error", title=str(directory))
    for job in jobs:
        accuracy = f"{job['test/acc']:.4f}" if job["test/acc"] is not None else ""
        table.add_row(job["job"], job["state"], accuracy, job["error"] or "")
    Console(width=None if Console().is_terminal else 200).print(table)
    return jobs


def _outcome(directory: Path) -> dict[str, Any]:
    try:
        status = read_status(directory)
        assert status is not None
        if status.state == "running":
            with suppress(ConfigError), locked(directory):
                status = Status("failed", status.overrides, "its process was killed; the same command goes on")
                write_status(directory, status)
    except CheckpointError as error:
        status = Status("failed", [], str(error))
    metrics = directory / "metrics.json"
    accuracy = json.loads(metrics.read_text())["test/acc"] if metrics.exists() else None
    return {"job": directory.name, "state": status.state, "error": status.error, "test/acc": accuracy}


def _job_number(status: Path) -> tuple[int, str]:
    number = status.parent.name.split("_")[0]
    return (int(number) if number.isdigit() else -1), status.parent.name
