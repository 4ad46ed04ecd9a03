"""A whole sweep: whether it can begin, and how it ended, by the files of its jobs."""

import json
import re
import shlex
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Column, Table

from ffbp.errors import ConfigError, Interrupted, Refusal, ResourceError
from ffbp.files import write_text
from ffbp.lifecycle.directory import RunDirectory, Status
from ffbp.lifecycle.job import NOT_OF_THE_RUN, ONE_BY_ONE, accuracy, standing
from ffbp.lifecycle.start import check_places, plain
from ffbp.lifecycle.sweep_progress import SweepProgress, job_names, planned
from ffbp.names import by_numbers
from ffbp.processes import FIRST_PROCESS, SIGNALS


class SweepStart(Callback):
    """Called by Hydra before a sweep's first job: see that it can work, and keep other sweeps out of its folder."""

    directory: ClassVar[Path | None] = None  # of the sweep that this process has begun
    progress: ClassVar[SweepProgress | None] = None  # of that sweep
    _alone: ClassVar = ExitStack()  # until the process ends

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            path = Path(config.hydra.sweep.dir)
            _check_sweep(config, path)
            self._alone.enter_context(RunDirectory(path).locked())
        except Exception as error:
            raise SystemExit(error) from error  # the only thing that Hydra does not swallow
        SweepStart.directory, SweepStart.progress = path, SweepProgress(path, *planned(config))
        launcher = config.hydra.launcher
        if not launcher._target_.endswith(".BasicLauncher") and launcher.get("n_jobs") != 1:  # jobs run elsewhere
            SweepStart.progress.watch()


def _check_sweep(config: DictConfig, path: Path) -> None:
    """Raise a ConfigError for a sweep whose jobs could not run, or not be told apart."""
    check_places(config, config.hydra.job.chdir)
    trainer = plain(config.trainer)
    strategy, devices = trainer.get("strategy"), trainer.get("devices")
    if "ddp" in str(strategy):
        raise ConfigError(f"-m with trainer.strategy={strategy}: {ONE_BY_ONE}")
    if (len(devices) if isinstance(devices, list) else str(devices).isdigit() and int(str(devices))) > 1:
        raise ConfigError(f"-m with trainer.devices={devices}: {ONE_BY_ONE}")
    if not FIRST_PROCESS:
        raise ConfigError(f"-m in several processes: {ONE_BY_ONE}")
    subdir = OmegaConf.to_container(config.hydra)["sweep"]["subdir"]  # type: ignore[call-overload,index]
    if "job_folder" not in str(subdir):
        raise ConfigError(f"hydra.sweep.subdir={subdir}: cannot be set, since a job is found again by its folder.")
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    words = [*config.hydra.overrides.task, *(f"{name}={value}" for name, value in params.items())]
    parse = OverridesParser.create().parse_override
    if several := [word for word in words if re.match(r"trainer(\.strategy)?=.*ddp", word)]:
        raise ConfigError(f"-m with {several[0]}: {ONE_BY_ONE}")
    if swept := [word for word in words if NOT_OF_THE_RUN.match(word) and parse(word).is_sweep_override()]:
        raise ConfigError(f"{swept[0]}: one value expected; jobs that differ in it alone would share a folder.")
    _require_own_files(path)
    if numbered := sorted(path.glob("[0-9]*_*/status.json")):
        folder = numbered[0].parent.name
        raise ConfigError(f"{path}: a sweep of an earlier version ({folder}); choose another hydra.sweep.dir.")


def _require_own_files(path: Path) -> None:
    """Raise a ConfigError if a file lies in a sweep's folder that the sweep would overwrite, and that is no sweep's."""
    beginnings = {"sweep.json": "[", "multirun.yaml": "hydra:"}
    for name, beginning in beginnings.items():
        with suppress(FileNotFoundError):
            if not (path / name).read_text(errors="replace").startswith(beginning):
                raise ConfigError(f"{path / name}: not of a sweep; choose another hydra.sweep.dir.")


@contextmanager
def judged_by_its_files() -> Iterator[None]:
    """Let Hydra work inside; if that was a sweep, its jobs' files say how it ended, whatever Hydra says.

    Raises:
        Refusal: if a job is not finished; an Interrupted after a signal, a ResourceError if the disk is full.
    """
    ended_by: BaseException | None = None
    try:
        yield
    except (Exception, SystemExit) as error:
        rejected = isinstance(error, SystemExit) and isinstance(error.code, Exception)  # by SweepStart
        ended_by = error.code if rejected else error  # type: ignore[union-attr,assignment]
    path = SweepStart.directory
    if SweepStart.progress:
        SweepStart.progress.stop()
    folders = SweepStart.progress.folders if SweepStart.progress else None  # None where they are not known
    jobs = summarise(path, folders or ()) if path else []
    go_on = f"go on with the same command and {shlex.quote(f'hydra.sweep.dir={path}')}"
    if path and SIGNALS.received:
        raise Interrupted(f"stopped by {SIGNALS.received.name}; {go_on}", SIGNALS.received)
    if ended_by is not None:
        if path and not jobs:
            RunDirectory(path).remove_if_empty()
        raise ended_by
    if broken := [job for job in jobs if job["state"] != "finished" or job["error"]]:
        repeated = SweepStart.progress is None or SweepStart.progress.repeats_failed
        advice = f", and {go_on}" if repeated or any(job["state"] != "failed" for job in broken) else ""
        if folders is not None and not any(job["job"] in folders for job in broken):
            advice = "; they are of other commands: repeat those, or remove the jobs' folders"
        raise Refusal(f"{path}: {len(broken)} of {len(jobs)} jobs are not finished; see the table{advice}")


def summarise(path: Path, folders: Collection[str]) -> list[dict[str, Any]]:
    """Print one table of all jobs of a sweep, the best in validation first, and leave them by name in sweep.json.

    `folders` are those of the jobs that the command line names, as far as they are known.
    """
    jobs = [_outcome(RunDirectory(path / name)) for name in sorted(job_names(path, folders), key=by_numbers)]
    table = Table(Column("job", overflow="fold"), "state", "val/acc", "test/acc", "error", title=str(path))
    ranked = sorted(jobs, key=lambda job: (job["state"] != "finished", -(job["val/acc"] or 0.0)))
    for job in ranked:
        best = job is ranked[0] and job["val/acc"] is not None and len(jobs) > 1
        shown = ["" if job[name] is None else f"{job[name]:.4f}" for name in ("val/acc", "test/acc")]
        shown[0] += " best" if best else ""
        table.add_row(job["job"], job["state"], *shown, job["error"] or "", style="bold" if best else None)
    if jobs:
        Console(width=None if Console().is_terminal else 200, markup=False).print(table)
        write_text(path / "sweep.json", json.dumps(jobs, indent=2) + "\n")
    return jobs


def _outcome(directory: RunDirectory) -> dict[str, Any]:
    """What became of a job; one that is said to be running, but that no process holds, has been killed."""
    status = standing(directory)
    if status.state == "running":
        with suppress(ConfigError), directory.locked():
            status = standing(directory)
            if status.state == "running":
                status = Status("failed", status.overrides, "its process was killed; the same command resumes it")
                with suppress(ResourceError):
                    directory.write_status(status)
    names = ("val/acc", "test/acc")
    measured = {name: accuracy(directory, name) if status.state == "finished" else None for name in names}
    return {"job": directory.path.name, "state": status.state, "error": status.error, **measured}
