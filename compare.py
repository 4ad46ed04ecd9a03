"""Compare finished runs: a table, figures and one page.

python compare.py runs=logs
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ffbp.command_line import exit_code_of, read_options


@dataclass
class Options:
    """runs: the directory below which they lie."""

    runs: str = "logs"
    debug: bool = False


def main() -> None:
    """Compare all runs below a directory."""
    options = read_options(Options)
    from ffbp.report.page import terminal_table, write_report

    directory = Path(options.runs)
    groups = write_report(directory)
    Console(width=None if sys.stdout.isatty() else 160).print(terminal_table(groups))
    print(f"\n{directory / 'compare' / 'index.html'}")


if __name__ == "__main__":
    sys.exit(exit_code_of(main, debug="debug=true" in sys.argv))
