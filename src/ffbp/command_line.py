"""Between the shell and a run: compose the settings, and turn every refusal into one line and an exit code."""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from ffbp.errors import ConfigError, Refusal, ResourceError

FIRST_PROCESS = os.environ.get("LOCAL_RANK", "0") == "0"
"""Whether this is the process that the user started, and not one that shares its training."""

CONF = Path(__file__).parents[2] / "conf"


def compose_and_run(task: Callable[[DictConfig, Path], None], config_name: str) -> NoReturn:
    """Compose the settings the command line asks for, do the task with them, leave with its exit code.

    Args:
        task: takes the composed settings and the run directory.
        config_name: the file in conf/ that composition starts from.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, not to Hydra's printer
    debug = "debug=true" in sys.argv
    codes: list[int] = []

    def job(config: DictConfig) -> None:
        hydra_config = HydraConfig.get()
        directory = Path(hydra_config.runtime.output_dir)
        code = exit_code_of(lambda: task(config, directory), debug)
        if hydra_config.mode == RunMode.MULTIRUN and code >= 128:
            sys.exit(code)  # a signal is for the whole sweep; anything else for this job only
        codes.append(code)

    code = exit_code_of(_refuse_taken_directory, debug)
    if code:
        sys.exit(code)
    decorated = hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)
    code = exit_code_of(decorated, debug)
    sys.exit(code or (codes[0] if len(codes) == 1 else max(codes, default=0) and 1))


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
    except KeyboardInterrupt:
        line, code = "stopped by SIGINT.", 130
    except OSError as error:
        line, code = f"{error.filename}: {error.strerror}.", ResourceError.exit_code
    else:
        return 0
    if debug:
        traceback.print_exc()
    print(f"error: {line}", file=sys.stderr)
    return code


def _refuse_taken_directory() -> None:
    """Refuse hydra.run.dir= where a run lies, while Hydra has not yet written into it."""
    if not FIRST_PROCESS:
        return  # the run that lies there is the one this process belongs to
    for word in sys.argv[1:]:
        directory = Path(word.removeprefix("hydra.run.dir="))
        if word.startswith("hydra.run.dir=") and (directory / "status.json").exists():
            raise ConfigError(f"{directory}: holds a run. Go on with resume={directory}, or choose another directory.")


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
    if "EOF" in message or "expecting" in message or "no viable alternative" in message:
        wrong = next((word for word in sys.argv[1:] if word.count("=") > 1), None)
        hint = f"{wrong}: write key=value, and quotes around a value that holds an =." if wrong else message
        return hint.removesuffix(" See https://hydra.cc/docs/1.2/advanced/override_grammar/basic for details")
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
