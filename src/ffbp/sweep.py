"""The end of a multirun: what became of each job."""

import json
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from ffbp.files import write_text


class SweepTable(Callback):
    """Print one table of all jobs and leave it in sweep.json; end with exit code 1 if any job failed."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        directory = Path(config.hydra.sweep.dir)
        jobs = [_outcome(status) for status in sorted(directory.glob("*/status.json"), key=_job_number)]
        write_text(directory / "sweep.json", json.dumps(jobs, indent=2) + "\n")
        table = Table("job", "state", "test/acc", "error", title=str(directory))
        for job in jobs:
            accuracy = f"{job['test/acc']:.4f}" if job["test/acc"] is not None else ""
            table.add_row(job["job"], job["state"], accuracy, job["error"] or "")
        Console(width=None if Console().is_terminal else 200).print(table)
        if any(job["state"] != "finished" for job in jobs):
            raise SystemExit(1)


def _outcome(status: Path) -> dict[str, Any]:
    content = json.loads(status.read_text())
    metrics = status.with_name("metrics.json")
    accuracy = json.loads(metrics.read_text())["test/acc"] if metrics.exists() else None
    return {"job": status.parent.name, "state": content["state"], "error": content["error"], "test/acc": accuracy}


def _job_number(status: Path) -> tuple[int, str]:
    number = status.parent.name.split("_")[0]
    return (int(number) if number.isdigit() else -1), status.parent.name
