"""The errors that end a command with one line, each kind with an exit code of its own."""


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
