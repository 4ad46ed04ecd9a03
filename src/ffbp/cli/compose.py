"""From the command line's words to the settings of a training, or of a sweep, by Hydra."""

import logging
import os
import re
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ffbp.cli.refusals import exit_code_of
from ffbp.errors import ConfigError
from ffbp.files import CONF
from ffbp.lifecycle.directory import RunDirectory
from ffbp.lifecycle.start import start_run
from ffbp.lifecycle.sweep import run_job, summarise
from ffbp.processes import FIRST_PROCESS, SIGNALS, run_in_own_process

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # what it cannot import it raises, and need not print


def train_as_composed() -> int:
    """Train with the settings that the command line composes, once or in a sweep, and return the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, not to Hydra's printer
    debug, main = "debug=true" in sys.argv, os.getpid()
    SIGNALS.listen()
    if not FIRST_PROCESS:
        sys.argv.append("hydra.run.dir=.")  # it exists, and only the first process writes
    codes: list[int] = []

    def task(config: DictConfig) -> None:
        codes.append(_run_or_job(config, debug, main))

    _reject_sweeps_of_several_processes()
    hydra_main = hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(task)
    return exit_code_of(hydra_main, debug) or (codes[0] if len(codes) == 1 else 0)


def _run_or_job(config: DictConfig, debug: bool, main: int) -> int:
    """Do a single run, or a job of a sweep, here or in a worker that a launcher has started.

    What ends a job concerns that job alone; its status.json tells the sweep. A signal concerns all jobs: in the main
    process it ends the sweep, and a worker skips what is still given to it, since its exit would kill the others.
    """
    directory = Path(HydraConfig.get().runtime.output_dir)
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())  # as one would type it
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return exit_code_of(lambda: start_run(config, directory), debug)
    if os.getpid() != main:
        SIGNALS.listen()
    code = 0
    if SIGNALS.received is None:
        if not RunDirectory(directory).metrics.exists():  # else there may be nothing to do
            import ffbp.lifecycle.train  # noqa: F401 - once, for the processes of all jobs
        code = run_in_own_process(lambda: exit_code_of(lambda: run_job(config, directory), debug))
    else:
        RunDirectory(directory).remove_if_empty()
    if SIGNALS.received is not None and os.getpid() == main:
        summarise(directory.parent)
        print(f"Resume with the same command and hydra.sweep.dir={directory.parent}", file=sys.stderr)
        raise SystemExit(128 + SIGNALS.received)
    return code


def _reject_sweeps_of_several_processes() -> None:
    """Reject -m with trainer=ddp before each process starts the sweep again."""
    wrong = [word for word in sys.argv[1:] if re.match(r"trainer(\.strategy)?=.*ddp", word)]
    if wrong and {"-m", "--multirun"} & set(sys.argv):
        raise ConfigError(f"-m with {wrong[0]}: each process would start the sweep again; run the jobs one by one.")
