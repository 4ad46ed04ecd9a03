"""From the command line's words to the settings of a training, or of a sweep, by Hydra."""

import logging
import math
import os
import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ffbp.cli.refusals import exit_code_of
from ffbp.cli.words import is_debugging
from ffbp.files import CONF
from ffbp.lifecycle.directory import RunDirectory
from ffbp.lifecycle.job import run_job, score
from ffbp.lifecycle.start import start_run
from ffbp.lifecycle.sweep import SweepStart, judged_by_its_files
from ffbp.processes import FIRST_PROCESS, SIGNALS, run_in_own_process

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # what it cannot import it raises, and need not print


def train_as_composed() -> int:
    """Train with the settings that the command line composes, once or in a sweep, and return the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, not to Hydra's printer
    debug, main = is_debugging(), os.getpid()
    SIGNALS.listen()
    if not FIRST_PROCESS:
        sys.argv.append("hydra.run.dir=.")  # it exists, and only the first process writes
    codes: list[int] = []  # of a single run

    def task(config: DictConfig) -> float:
        """Return the validation accuracy to Hydra's sweeper; NaN if there is none."""
        directory = Path(HydraConfig.get().runtime.output_dir)
        if directory.is_relative_to(Path.cwd()):
            directory = directory.relative_to(Path.cwd())  # as one would type it
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            code = _job(config, directory, debug, main)
        else:
            code = exit_code_of(lambda: start_run(config, directory), debug)
            codes.append(code)
        return score(RunDirectory(directory)) if code == 0 else math.nan

    def run() -> int:
        with judged_by_its_files():
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(task)()
        return codes[0] if codes else 0

    return exit_code_of(run, debug)


def _job(config: DictConfig, directory: Path, debug: bool, main: int) -> int:
    """Do a job of a sweep, here or in a worker that a launcher has started, and return its exit code.

    What ends a job concerns that job alone; its status.json tells the sweep. A signal concerns all jobs: in the main
    process it ends the sweep, and a worker skips what is still given to it, since its exit would kill the others.
    """
    if os.getpid() != main:
        SIGNALS.listen()
    code = 0
    if SIGNALS.received is None:
        if not RunDirectory(directory).metrics.exists():  # else there may be nothing to do
            import ffbp.lifecycle.train  # noqa: F401 - once, for the processes of all jobs
        started = time.monotonic()
        code = run_in_own_process(lambda: exit_code_of(lambda: run_job(config, directory), debug))
        if os.getpid() == main and SweepStart.progress:
            SweepStart.progress.job_ended(directory.name, time.monotonic() - started)
    else:
        RunDirectory(directory).remove_if_empty()
    if SIGNALS.received is None:
        return code
    if os.getpid() == main:
        raise SystemExit(128 + SIGNALS.received)
    return 128 + SIGNALS.received
