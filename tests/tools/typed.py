"""A command as it is typed, in this process."""

import sys
from collections.abc import Callable

from ffbp.cli.refusals import exit_code_of


def typed(capsys, command: Callable[[], int], *words: str) -> tuple[int, str, str]:
    """Run a command with these words: its exit code, standard output and standard error."""
    before, sys.argv = sys.argv, ["ffbp", *words]
    try:
        code = exit_code_of(command, debug=False)
    finally:
        sys.argv = before
    return (code, *capsys.readouterr())
