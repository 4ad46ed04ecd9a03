"""The errors that end a command with one line, each kind with an exit code of its own."""

import difflib
from collections.abc import Sequence


class Refusal(Exception):
    """A run cannot start or continue; the message is one line that says what to do."""

    exit_code = 1

    def __init_subclass__(cls, exit_code: int = 1) -> None:
        cls.exit_code = exit_code


class ConfigError(Refusal, exit_code=2):
    """A setting is unknown, out of range or incompatible with another."""


class DataError(Refusal, exit_code=3):
    """A data set is missing or damaged."""


class CheckpointError(Refusal, exit_code=4):
    """A run or its checkpoint is missing, damaged, of another kind, or not safe to load."""


class NumericError(Refusal, exit_code=5):
    """A loss, or what a checkpoint would keep, became NaN or infinite."""

    checkpoint_is_good = True  # whether the checkpoint from before is; not where its own test came to this


class ResourceError(Refusal, exit_code=6):
    """The machine lacks something that the run needs: a device, memory, a writable folder."""


class Interrupted(Refusal):
    """A signal ended the run after a last checkpoint; the exit code is 128 + the signal, as in a shell."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def one_line(text: object, longest: int = 1000) -> str:
    """Some text as one printable line, whoever wrote it: white space becomes single spaces, the rest is escaped."""
    line = " ".join(str(text).split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[: longest + 1])
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def did_you_mean(word: str, options: Sequence[str]) -> str:
    """A sentence that names the option closest to a mistyped word, or nothing; first one that ends as the word does."""
    end = f".{word.rpartition('.')[2]}"
    close = [option for option in options if option.endswith(end)] or difflib.get_close_matches(word, options, n=1)
    return f" Did you mean {close[0]}?" if close else ""
