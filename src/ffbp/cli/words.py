"""The words of a command line that are ours to read: what follows the first = is taken as it stands."""

import re
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ffbp.errors import ConfigError, did_you_mean

Options = TypeVar("Options")


def asks_for_help(words: Sequence[str]) -> bool:
    """Whether a command is asked what it can be told."""
    return not {"--help", "-h"}.isdisjoint(words)


def read_options(kind: type[Options], words: Sequence[str]) -> Options:
    """Fill a dataclass from key=value words.

    A value is text as it stands, so that a run may be called 007, [x] or a=b; in quotes, as Hydra takes it, what
    stands between them. It is true or false where the field is a bool; one of the choices of a Literal; and for a field
    of a list, `[one,another]` or one text without brackets.

    Raises:
        ConfigError: if a key is unknown or given twice, or a value is wrong or missing.
    """
    known = get_type_hints(kind)
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in known:
            expected = ", ".join(f"{name}=" for name in known)
            raise ConfigError(f"{word}: {expected} expected.{did_you_mean(key, list(known))}")
        if key in values:
            raise ConfigError(f"{key}= is given twice; give it once.")
        values[key] = _value(known[key], key, text)
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in values and field.default is field.default_factory is MISSING:
            raise ConfigError(f"{field.name}= is needed.")
    return kind(**values)


def show_options(kind: type[Any], purpose: str) -> None:
    """Print what a command does, and what it can be told."""
    print(f"{purpose}\n")
    for name, hint in get_type_hints(kind, include_extras=True).items():
        kind = hint.__origin__
        choices = get_args(kind) if get_origin(kind) is Literal else ("true", "false") if kind is bool else ()
        said = f" ({', '.join(choices)})" if choices else ""
        print(f"  {name + '=':10} {hint.__metadata__[0]}{said}")


def _value(kind: Any, key: str, text: str) -> Any:
    if not text:
        raise ConfigError(f"{key}=: a value expected.")
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ConfigError(f"{key}={text}: true or false expected.")
        return text.lower() == "true"
    if get_origin(kind) is Literal:
        if text.lower() not in get_args(kind):
            raise ConfigError(f"{key}={text}: {', '.join(get_args(kind))} expected.")
        return text.lower()
    if kind is str:
        return _unquoted(text)
    texts = _texts(key, text) if text.startswith("[") and text.endswith("]") else [_unquoted(text)]
    if not texts:
        raise ConfigError(f"{key}=[]: at least one expected.")
    return texts


def _unquoted(text: str) -> str:
    quoted = re.fullmatch(r"(['\"])(.+)\1", text, re.DOTALL)
    return quoted[2] if quoted else text


def _texts(key: str, text: str) -> list[str]:
    from yaml import BaseLoader, YAMLError, load  # a list in brackets is YAML, whose values are texts to this loader

    try:
        found = load(text, BaseLoader)
    except (YAMLError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ConfigError(f"{key}={text}: [one,another] expected; put quotes around what contains , or brackets.")
    return found


def reject_unusable_words(words: Sequence[str]) -> None:
    """Raise a ConfigError for words that Hydra would answer with a page of help, or with a traceback."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> None:
        raise ConfigError(f"{message}; see --help.")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign, assignment]
    found, unknown = parser.parse_known_args(list(words))
    if unknown:
        raise ConfigError(f"{unknown[0]}: no such option; see --help.")
    if found.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun: use resume=<run directory>.")
    for word in found.overrides:
        key, equals, value = word.strip("+~ ").partition("=")
        if not key:
            raise ConfigError(f"{word}: write key=value.")
        if key in PLACES and equals and not value:
            raise ConfigError(f"{word}: a place expected.")


PLACES = ("data.path", "paths.data_dir", "paths.log_dir", "hydra.run.dir", "hydra.sweep.dir")

NO_TEXT = re.compile(r"[+-]?[\d._]*\d[\d._]*(e[+-]?\d+)?|[+-]?(inf|nan)|true|false|null", re.IGNORECASE)
"""What Hydra reads as a number, a truth value or nothing."""


def with_quoted_path(word: str) -> str:
    """A word as Hydra reads it: the place of files in quotes, if something in it is no plain letter, or it is a number.

    A leading ~ is the home directory, since shells do not see it behind a key with dots. Places that are swept over, by
    commas, or looked up stay as they are.
    """
    key, equals, path = word.partition("=")
    if key not in PLACES or path[:1] in ("'", '"') or "${" in path:
        return word
    if path == "~" or path.startswith("~/"):
        path = str(Path(path).expanduser())
    plain = re.fullmatch(r"[\w./:+@%\\ ,-]*", path, re.ASCII)
    if plain and not NO_TEXT.fullmatch(path):
        return f"{key}={path}" if equals else word
    escaped = re.sub(r"(\\*)'", r"\1\1\'", path)
    return f"{key}{equals}'{escaped}'"


def with_added_key(word: str) -> str:
    """A word as Hydra reads it: keys that only some optimizers have are in no YAML, and want ++ in front.

    The `_target_` of an optimizer is written as its name, so that no other name stays beside it.
    """
    word = re.sub(r"\A\+{0,2}algo\.optimizer\._target_=", "algo.optimizer.name=", word)
    if re.match(r"\+{0,2}algo\.optimizer=\{", word):
        word = re.sub(r"\b_target_(?=\s*:)", "name", word)
    added = re.match(r"algo\.optimizer(=\{|\.(?!(name|lr|weight_decay|momentum)=)\w+=)", word)
    return f"++{word}" if added else word


def is_debugging() -> bool:
    """Whether tracebacks are wanted in place of one line."""
    return any(word.lower() == "debug=true" for word in sys.argv[1:])
