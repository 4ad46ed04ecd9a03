"""Every refusal as one line on stderr and an exit code."""

import difflib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from signal import Signals
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from ffbp.errors import ConfigError, Refusal, ResourceError
from ffbp.files import CONF
from ffbp.processes import FIRST_PROCESS, first_process_ends


def exit_code_of(task: Callable[[], int | None], debug: bool) -> int:
    """Run something and return its exit code; if it is refused, say why in one line on stderr, or with a traceback."""
    try:
        return task() or 0
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
        line, code = f"a worker of the sweep was killed ({error}); the same command resumes it.", 6
    except KeyboardInterrupt:
        line, code = "stopped by SIGINT.", 130
    except SystemExit as error:
        if not isinstance(error.code, int) or error.code <= 128:
            raise
        line, code = f"stopped by {Signals(error.code - 128).name}.", error.code
    except OSError as error:
        line, code = f"{error.filename or 'a file'}: {error.strerror}.", ResourceError.exit_code
    line = " ".join(line.split())
    if debug:
        traceback.print_exc()
    if FIRST_PROCESS or not first_process_ends():
        print(f"error: {line}", file=sys.stderr)
    return code


def did_you_mean(word: str, options: list[str]) -> str:
    """A sentence that names the option closest to a mistyped word, or nothing."""
    close = difflib.get_close_matches(word, options, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def _missing_choice(error: MissingConfigException) -> str:
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = sorted(error.options or [])
    return f"{group}={choice}: no such choice.{did_you_mean(choice, options)} There are: {', '.join(options)}."


def _unusable_setting(error: Exception) -> str:
    """One line on a setting that cannot be parsed or is not known."""
    message = " ".join(str(error).split())
    if found := re.search(r"Could not override '([^']+)'", message):
        return f"{found[1]}: no such setting.{did_you_mean(found[1], list(_known_keys()))}"
    if found := re.search(r"Ambiguous value for argument '([^']+)'", message):
        key, _, value = found[1].partition("=")
        return f"{found[1]}: several values. Write '{key}=[{value}]' for a list, or add -m to sweep over them."
    if isinstance(error, OverrideParseException):
        return f"{error.override}: write key=value, close brackets, and put quotes around a value that contains an =."
    return message


def _known_keys() -> Iterator[str]:
    """All settings of the composition that the command line chose, without its faulty part."""
    GlobalHydra.instance().clear()
    groups = [
        word
        for word in sys.argv[1:]
        if "," not in word and (CONF / word.replace("=", "/")).with_suffix(".yaml").is_file()
    ]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield from _nested_keys(OmegaConf.to_container(compose("train", groups), resolve=False))


def _nested_keys(node: Any, prefix: str = "") -> Iterator[str]:
    for name, child in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{name}"
        yield from _nested_keys(child, f"{prefix}{name}.")
