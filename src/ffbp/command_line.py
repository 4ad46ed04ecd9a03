"""Between the shell and a run: compose the settings, and turn every refusal into one line and an exit code."""

import ctypes
import difflib
import logging
import multiprocessing
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any, NoReturn, TypeVar

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from ffbp.errors import ConfigError, Refusal, ResourceError
from ffbp.signals import SIGNALS
from ffbp.sweep import summarise

logging.getLogger("hydra.utils").setLevel(logging.CRITICAL)  # what it cannot import it raises, and need not print

FIRST_PROCESS = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
"""Whether this is the process that the user started, and not one that shares its training."""

Task = Callable[[DictConfig, Path], None]

CONF = Path(__file__).parents[2] / "conf"

PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def compose_and_run(start: Task, job: Task, config_name: str) -> NoReturn:
    """Compose the settings the command line asks for, do the task with them, leave with its exit code.

    Args:
        start: what to do in a single run; takes the composed settings and the run directory.
        job: what to do for each job of a sweep, likewise.
        config_name: the file in conf/ that composition starts from.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, not to Hydra's printer
    debug = "debug=true" in sys.argv
    SIGNALS.listen()
    if not FIRST_PROCESS:
        sys.argv.append("hydra.run.dir=.")  # it exists, and only the first process writes
    codes: list[int] = []
    main = os.getpid()

    def task(config: DictConfig) -> None:
        codes.append(_do(start, job, debug, main, config))

    decorated = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(task)
    code = exit_code_of(_refuse_sweeps_of_several_processes, debug) or exit_code_of(decorated, debug)
    sys.exit(code or (codes[0] if len(codes) == 1 else 0))


def _do(start: Task, job: Task, debug: bool, main: int, config: DictConfig) -> int:
    """Do a single run, or a job of a sweep, here or in a worker that a launcher has started.

    Whatever ends a job is its own matter; its status.json tells the sweep. A signal is for all jobs: here it ends the
    sweep, and a worker does nothing of what is still given to it, since its exit would have the others killed.
    """
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    if directory.is_relative_to(Path.cwd()):
        directory = directory.relative_to(Path.cwd())  # as one would type it
    if hydra_config.mode != RunMode.MULTIRUN:
        return exit_code_of(lambda: start(config, directory), debug)
    if os.getpid() != main:
        SIGNALS.listen()
    code = 0
    if SIGNALS.received is None:
        if not (directory / "metrics.json").exists():  # else there may be nothing to do
            import ffbp.run  # noqa: F401 - once, for the processes of all jobs
        code = _apart(lambda: exit_code_of(lambda: job(config, directory), debug))
    else:
        with suppress(OSError):  # there is something of an earlier sweep
            directory.rmdir()
    if SIGNALS.received is not None and os.getpid() == main:
        summarise(directory.parent)
        print(f"Go on with the same command and hydra.sweep.dir={directory.parent}", file=sys.stderr)
        raise SystemExit(128 + SIGNALS.received)
    return code


def _apart(task: Callable[[], int]) -> int:
    """Do something in a process of its own, so that what kills it, such as a lack of memory, kills nothing else.

    Returns:
        the exit code; negative if a signal killed the process.
    """
    if sys.platform != "linux":  # where a process cannot be divided safely
        try:
            return task()
        except Exception:
            traceback.print_exc()
            return 1

    def child() -> None:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)  # or it would go on when the sweep is killed
        sys.exit(task())

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _refuse_sweeps_of_several_processes() -> None:
    """Refuse -m with trainer=ddp before each process starts the sweep again."""
    wrong = [word for word in sys.argv[1:] if re.match(r"trainer(\.strategy)?=.*ddp", word)]
    if wrong and {"-m", "--multirun"} & set(sys.argv):
        raise ConfigError(f"-m with {wrong[0]}: each process would start the sweep again; run the jobs one by one.")


Options = TypeVar("Options")


def read_options(kind: type[Options]) -> Options:
    """Fill a dataclass from the command line's key=value words.

    Raises:
        ConfigError: if a key is unknown, a value is of another type, or one that has no default is missing.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for word in sys.argv[1:]:
        key, equals, _ = word.partition("=")
        if not equals or key not in names:
            raise ConfigError(f"{word}: {', '.join(f'{name}=' for name in names)} expected.{_did_you_mean(key, names)}")
    options = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.from_dotlist(sys.argv[1:]))
    missing = OmegaConf.missing_keys(options)
    if missing:
        raise ConfigError(f"{', '.join(f'{name}=' for name in sorted(missing))} is needed.")
    filled = OmegaConf.to_object(options)
    assert isinstance(filled, kind)
    return filled


def exit_code_of(task: Callable[[], None], debug: bool) -> int:
    """Do something; if it is refused, say why in one line on stderr (or with a traceback) and return its exit code."""
    try:
        task()
    except Refusal as error:
        line, code = str(error), error.exit_code
    except MissingConfigException as error:
        line, code = _missing_choice(error), ConfigError.exit_code
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line, code = f"{mark.name}, line {mark.line + 1}: {error.problem}." if mark else str(error), 2
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        line, code = _unusable_setting(error), ConfigError.exit_code
    except BrokenProcessPool as error:
        line, code = f"a worker of the sweep was killed ({error}); the same command goes on.", ResourceError.exit_code
    except KeyboardInterrupt:
        line, code = "stopped by SIGINT.", 130
    except SystemExit as error:
        if not isinstance(error.code, int) or error.code <= 128:
            raise
        line, code = f"stopped by {Signals(error.code - 128).name}.", error.code
    except OSError as error:
        line, code = f"{error.filename or 'a file'}: {error.strerror}.", ResourceError.exit_code
    else:
        return 0
    line = " ".join(line.split())
    if debug:
        traceback.print_exc()
    if FIRST_PROCESS or not _first_process_ends():
        print(f"error: {line}", file=sys.stderr)
    return code


def _first_process_ends(seconds: float = 10.0) -> bool:
    """Wait for the process that started this one: it meets the same refusal, says so, and should be the first to go."""
    parent, deadline = os.getppid(), time.monotonic() + seconds
    while os.getppid() == parent and time.monotonic() < deadline:
        time.sleep(0.05)
    return os.getppid() != parent


def _missing_choice(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = sorted(error.options or [])
    return f"{group}={choice}: no such choice.{_did_you_mean(choice, options)} There are: {', '.join(options)}."


def _unusable_setting(error: Exception) -> str:
    """One line on a setting that cannot be parsed or is not known."""
    message = " ".join(str(error).split())
    if found := re.search(r"Could not override '([^']+)'", message):
        return f"{found[1]}: no such setting.{_did_you_mean(found[1], list(_known_keys()))}"
    if found := re.search(r"Ambiguous value for argument '([^']+)'", message):
        key, _, value = found[1].partition("=")
        return f"{found[1]}: several values. Write {key}=[{value}] for a list, or add -m to sweep over them."
    if isinstance(error, OverrideParseException):
        return f"{error.override}: write key=value, close brackets, and put quotes around a value that holds an =."
    return message


def _did_you_mean(word: str, options: list[str]) -> str:
    close = difflib.get_close_matches(word, options, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _known_keys() -> Iterator[str]:
    """All settings of the composition that the command line chose, without its faulty part."""
    GlobalHydra.instance().clear()
    groups = [
        word
        for word in sys.argv[1:]
        if "," not in word and (CONF / word.replace("=", "/")).with_suffix(".yaml").is_file()
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield from _flatten("", OmegaConf.to_container(compose("train", groups), resolve=False))


def _flatten(prefix: str, node: Any) -> Iterator[str]:
    if prefix:
        yield prefix
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _flatten(f"{prefix}.{name}" if prefix else str(name), child)
