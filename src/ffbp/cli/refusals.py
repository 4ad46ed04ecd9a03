"""Every refusal as one line on stderr and an exit code. Imports little, so that a failing import is one of them."""

import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor
from signal import Signals

from ffbp.errors import ConfigError, Refusal, ResourceError, did_you_mean, one_line
from ffbp.files import CONF
from ffbp.processes import FIRST_PROCESS, first_process_ends

NO_MEMORY = re.compile("MemoryError|OutOfMemoryError|allocate memory|failed to map segment|bad_alloc|start new thread")
"""How Python, PyTorch and the loader of libraries say that memory is lacking."""


def exit_code_of(task: Callable[[], int | None], debug: bool) -> int:
    """Run something and return its exit code; if it fails, say why in one line on stderr, or with a traceback."""
    try:
        return task() or 0
    except BaseException as error:
        if isinstance(error, SystemExit) and (error.code is None or error.code in range(129)):
            return int(error.code or 0)  # a command that has said what it had to say, such as --help
        try:
            line, code = _explain(error)
        except Exception:  # while it looked for advice
            line, code = _unexpected(error)
        if debug:
            traceback.print_exception(error)
    if FIRST_PROCESS or not first_process_ends():
        print(f"error: {one_line(line)}", file=sys.stderr)
    return code


def quiet_background() -> None:
    """Say in one line what goes wrong in a thread, and nothing of what does while objects are taken down."""

    def say(failed: threading.ExceptHookArgs) -> None:
        print(f"error: {one_line(_explain(failed.exc_value or SystemExit())[0])}", file=sys.stderr)

    threading.excepthook = say
    sys.unraisablehook = lambda failed: None


def _explain(error: BaseException) -> tuple[str, int]:
    """A line that says what to do about an error, and the exit code."""
    kind, message = type(error).__name__, one_line(error)
    if isinstance(error, Refusal):
        return message, error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT.", 130
    if isinstance(error, SystemExit):
        for signal in Signals:
            if error.code == 128 + signal:
                return f"stopped by {signal.name}.", 128 + signal
        return f"ended early ({message}).", Refusal.exit_code
    if NO_MEMORY.search(f"{kind}: {message}"):
        return f"out of memory ({message or kind}); free some, or allow this program more.", ResourceError.exit_code
    if isinstance(error, BrokenExecutor):
        return f"a worker of the sweep was killed ({message}); the same command resumes it.", ResourceError.exit_code
    if isinstance(error, ImportError):
        return f"a package cannot be imported ({message}); install it again.", ResourceError.exit_code
    packages = {name.partition(".")[0] for name in (type(error).__module__, _raised_in(error))}
    if packages & {"hydra", "omegaconf", "yaml", "antlr4"}:
        return _unusable_setting(error, message), ConfigError.exit_code
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror or message}.", ResourceError.exit_code
    if isinstance(error, RecursionError):
        return "a setting is nested too deeply; debug=true shows which.", ConfigError.exit_code
    if "lightning" in packages:  # which finds some settings unusable late
        return f"trainer: {message}; debug=true shows where.", ConfigError.exit_code
    return _unexpected(error)


def _unexpected(error: BaseException) -> tuple[str, int]:
    return f"unexpected {type(error).__name__}: {one_line(error)}; debug=true shows where.", Refusal.exit_code


def _raised_in(error: BaseException) -> str:
    """The module whose code raised an error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return str(frames[-1].f_globals.get("__name__")) if frames else ""


def _unusable_setting(error: BaseException, message: str) -> str:
    """One line on a setting that Hydra, OmegaConf or YAML cannot parse or does not know."""
    from hydra.errors import MissingConfigException, OverrideParseException  # here, where they are imported already
    from yaml import MarkedYAMLError

    if isinstance(error, MissingConfigException) and error.options is not None:
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        options = sorted(error.options)
        return f"{group}={choice}: no such choice.{did_you_mean(choice, options)} There are: {', '.join(options)}."
    if isinstance(error, MarkedYAMLError) and (mark := error.problem_mark):
        return f"{mark.name}, line {mark.line + 1}: {error.problem}."
    if found := re.search(r"default list use \+(\S+)", message):
        group, _, choice = found[1].partition("=")
        return f"{group}={choice}: write +{group}={choice}, and -m if it is a sweep."
    if found := re.search(r"Could not override '([^']+)'", message):
        return f"{found[1]}: no such setting.{did_you_mean(found[1], list(_known_keys()))}"
    if "override must be a string or a list" in message:
        empty = [word for word in sys.argv[1:] if re.fullmatch(r"\w+=(null)?", word)]
        if not empty:
            return message
        return f"{' '.join(empty)}: the name of a choice expected{', such as logger=none' * ('logger=null' in empty)}."
    if found := re.search(r"Ambiguous value for argument '([^']+)'", message):
        key, _, value = found[1].partition("=")
        return f"{found[1]}: several values. Write '{key}=[{value}]' for a list, or add -m to sweep over them."
    if isinstance(error, OverrideParseException):
        return f"{error.override}: write key=value, and 'key=\"value\"' where a value has odd characters."
    return message


def _known_keys() -> Iterator[str]:
    """All settings of the composition that the command line chose, without its faulty part."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from ffbp.settings import setting_names

    GlobalHydra.instance().clear()
    groups = [
        word
        for word in sys.argv[1:]
        if "," not in word and (CONF / word.replace("=", "/")).with_suffix(".yaml").is_file()
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield from setting_names(OmegaConf.to_container(compose("train", groups), resolve=False))
