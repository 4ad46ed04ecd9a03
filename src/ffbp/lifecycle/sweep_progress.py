"""How far a sweep is: a line between its jobs, made from their files, so that any launcher may run them."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from ffbp.errors import one_line
from ffbp.lifecycle.directory import RunDirectory, Status
from ffbp.lifecycle.job import accuracy, job_folder, standing
from ffbp.processes import SIGNALS

WIDTH = 80  # columns of a terminal


def planned(config: DictConfig) -> tuple[int | None, list[str] | None, list[str]]:
    """What the command line says of a sweep's jobs: how many, in which folders, and the settings that are swept.

    Where the jobs are drawn one after the other, their folders are not known; where something else decides on them, nor
    is their number.
    """
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    words = [*(f"{name}={value}" for name, value in params.items()), *config.hydra.overrides.task]
    overrides = OverridesParser.create().parse_overrides(words)
    swept = list(dict.fromkeys(part.get_key_element() for part in overrides if part.is_sweep_override()))
    if "n_trials" in config.hydra.sweeper:
        return config.hydra.sweeper.n_trials, None, swept
    try:
        [jobs] = BasicSweeper.split_arguments(overrides, None)
    except HydraException:  # an interval, or a pattern of names
        return None, None, swept
    return len(jobs), [job_folder(words) for words in jobs], swept


def job_names(path: Path, known: Collection[str] = ()) -> list[str]:
    """The names of the folders of all jobs of a sweep that have begun: those that are known, and that look like one."""
    return [folder.name for folder in path.iterdir() if folder.is_dir() and (folder.name in known or _is_job(folder))]


def _is_job(folder: Path) -> bool:
    written = (folder / "status.json", folder / ".hydra")
    return bool({"=", "@"} & set(folder.name)) and any(path.exists() for path in written)


def _stop_local_jobs() -> None:
    """Pass a signal on to the jobs of hydra/launcher=submitit_local, which a Ctrl-C in the terminal does not reach."""
    for child in Path("/proc/self/task").glob("*/children"):  # on Linux
        for number in child.read_text().split():
            with suppress(OSError):
                if b"submitit" in Path("/proc", number, "cmdline").read_bytes():
                    os.kill(int(number), signal.SIGTERM)


def duration(seconds: float) -> str:
    """A time to two digits or so: "40 s", "12 min", "5.2 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def clock(now: datetime, seconds: float) -> str:
    """The time of day after some seconds, with the day if it is another: "14:05", "Tue 14:05"."""
    then = now + timedelta(seconds=seconds)
    return then.strftime("%H:%M" if then.date() == now.date() else "%a %H:%M")


class SweepProgress:
    """Count the jobs of a sweep that have ended, and say when the rest will have.

    Args:
        path: of the sweep.
        total: how many jobs it has; None where that is not known.
        folders: the names of their folders; None where they are not known beforehand.
        swept: the settings in which jobs differ.
    """

    def __init__(self, path: Path, total: int | None, folders: Sequence[str] | None, swept: Sequence[str]) -> None:
        self.path, self.total, self.folders, self._swept = path, total, folders, swept
        self.repeats_failed = folders is not None  # a drawn trial that failed is not drawn again
        self._seen = {name: self._written(name) for name in self._names()}
        self._ended: dict[str, Status] = {}
        for name in (name for name, written in self._seen.items() if written is not None):
            status = standing(RunDirectory(path / name))
            if status.state == "finished" or (status.state == "failed" and not self.repeats_failed):
                self._ended[name] = status
        self._finished_before = {name for name, status in self._ended.items() if status.state == "finished"}
        self._started, self._seconds = time.monotonic(), 0.0
        self._watching, self._stopped = False, threading.Event()

    def job_ended(self, name: str, seconds: float) -> None:
        """Take note of a job that took some seconds in this process, one after the other, and print the line."""
        if self._watching or SIGNALS.received or self._seen.get(name) == self._written(name):  # it was skipped
            return
        self._note(name)
        if self._ended[name].state == "running":
            self._ended[name] = self._ended[name]._replace(state="failed")  # it was killed
        self._seconds += seconds if self._ended[name].state == "finished" else 0.0
        self._print(self._seconds)

    def watch(self) -> None:
        """Print the line whenever a job ends, in other processes or on other machines, until `stop`."""

        def look() -> None:
            while not self._stopped.wait(1.0) and not SIGNALS.received:
                changed = [name for name in self._names() if self._written(name) != self._seen.get(name)]
                new = [name for name in changed if standing(RunDirectory(self.path / name)).state != "running"]
                for name in new:
                    self._note(name)
                if new:
                    self._print(time.monotonic() - self._started)
            if SIGNALS.received:
                _stop_local_jobs()

        self._watching = True
        threading.Thread(target=look, daemon=True).start()

    def stop(self) -> None:
        """End `watch`."""
        self._stopped.set()

    def line(self, seconds: float, now: datetime) -> str | None:
        """The line, of 80 columns at most; None if no job is left.

        Args:
            seconds: that the jobs which finished took, one after the other, or all of them side by side.
            now: what the end is reckoned from.
        """
        names = self._names()  # a name may stand there twice, since a sampler may draw the same job twice
        ended = [name for name in names if name in self._ended]
        finished = [name for name in ended if self._ended[name].state == "finished"]
        skipped, failed = len(self._finished_before & {*names}), len(ended) - len(finished)
        parts = [f"{number} {what}" for what, number in (("skipped", skipped), ("failed", failed)) if number]
        if self.total is not None:
            left = self.total - len(ended)
            if left <= 0:
                return None
            parts.append(f"{left} left")
            if trained := {*finished} - self._finished_before:
                rest = seconds / len(trained) * left
                parts.append(f"{duration(rest)} until {clock(now, rest)}")
        found = {name: accuracy(RunDirectory(self.path / name), "val/acc") or 0.0 for name in finished}
        if best := max(found, key=lambda name: found[name], default=None):
            parts[-1:] = [f"{''.join(parts[-1:])}; best {found[best]:.4f}{self._words(self._ended[best])}"]
        of = "" if self.total is None else f"/{self.total}"
        return one_line(f"sweep {len(ended)}{of}: {', '.join(parts)}", WIDTH)

    def _print(self, seconds: float) -> None:
        if line := self.line(seconds, datetime.now()):  # at the end there is a table
            print(line, flush=True)

    def _note(self, name: str) -> None:
        self._seen[name], self._ended[name] = self._written(name), standing(RunDirectory(self.path / name))

    def _words(self, status: Status) -> str:
        """The settings of a job in which it differs from others, by the last parts of their names."""
        endings = {name: name.rpartition(".")[2] for name in self._swept}
        counts = Counter(endings.values())
        pairs = [str(word).partition("=") for word in status.overrides]
        said = [
            f"{endings[name] if counts[endings[name]] == 1 else name}={value}"
            for name, _, value in pairs
            if name in endings
        ]
        return f" by {' '.join(said)}" if said else ""

    def _names(self) -> Sequence[str]:
        return job_names(self.path) if self.folders is None else self.folders

    def _written(self, name: str) -> int | None:
        """When the status.json of a job was written; None where there is none."""
        try:
            return (self.path / name / "status.json").stat().st_mtime_ns
        except OSError:
            return None
