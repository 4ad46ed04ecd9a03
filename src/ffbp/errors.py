"""What can go wrong, and the exit code that says so."""


class Refusal(Exception):
    """A run cannot start or go on: one line that says what to do, and the exit code of its kind."""

    exit_code = 1


class ConfigError(Refusal):
    """A setting is unknown, out of range or impossible together with another."""

    exit_code = 2


class DataError(Refusal):
    """A data set is missing or damaged."""

    exit_code = 3


class CheckpointError(Refusal):
    """A run or its checkpoint is missing, damaged, of another kind, or not to be trusted."""

    exit_code = 4


class NumericError(Refusal):
    """A loss became infinite or not a number."""

    exit_code = 5


class ResourceError(Refusal):
    """The machine lacks what the run asks for: a device, memory, a writable folder."""

    exit_code = 6


class Interrupted(Refusal):
    """A signal ended the run after a last checkpoint; the shell's code is 128 + the signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
