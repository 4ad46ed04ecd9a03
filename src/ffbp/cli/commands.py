"""The commands: train, evaluate, compare and demo. They import what they need once their words are known to be good."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NoReturn

from ffbp.cli.completion import asks_for_completion, complete
from ffbp.cli.evaluate import evaluate
from ffbp.cli.help import show_help
from ffbp.cli.refusals import exit_code_of, quiet_background
from ffbp.cli.runs import prune, runs
from ffbp.cli.streams import output_problem, secure_streams
from ffbp.cli.words import (
    asks_for_help,
    is_debugging,
    read_options,
    reject_unusable_words,
    show_options,
    with_added_key,
    with_quoted_path,
)
from ffbp.errors import ConfigError, ResourceError
from ffbp.files import PROGRAM
from ffbp.lifecycle.threads import wait_briefly
from ffbp.processes import FIRST_PROCESS, SIGNALS


def main(command: str | None = None) -> NoReturn:
    """Run a command; without one, the command that the first word names: `ffbp train algo=ff`."""
    secure_streams()
    debug = is_debugging()
    if not debug:
        quiet_background()
    if command is None and sys.argv[1:2] and sys.argv[1] in COMMANDS:
        command = sys.argv.pop(1)
    if command is None and asks_for_completion(sys.argv[1:2]):
        command = "train"  # the only one with settings to complete
    if command is None and not FIRST_PROCESS:  # which a training has started, with its own words
        command = "train"
    # read when PyTorch is imported: several processes always look for unused parameters, and it warns without any
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    wait_briefly()
    code = exit_code_of(COMMANDS.get(command or "", usage), debug)
    sys.exit(code or exit_code_of(all_is_said, debug))


def all_is_said() -> None:
    """Raise a ResourceError if the standard output could not be written."""
    if problem := output_problem():
        raise ResourceError(f"standard output: cannot be written ({problem.strerror}); some of it is lost.")


@dataclass
class ResumeOptions:
    """What `train resume=` can be told, besides settings."""

    resume: str
    trust: list[str] = field(default_factory=list)
    debug: bool = False


def train() -> int:
    """Train an algorithm on a model and test it; or a sweep of such runs; or resume one."""
    words = [word.lstrip("+") if word.lstrip("+").startswith("resume=") else word for word in sys.argv[1:]]
    if asks_for_completion(words):
        return complete()
    if asks_for_help(words):
        show_help()
        return 0
    if not any(w.startswith("resume=") and w not in ("resume=", "resume=null") for w in words):
        sys.argv[1:] = [with_quoted_path(with_added_key(word)) for word in sys.argv[1:]]
        reject_unusable_words(sys.argv[1:])
        from ffbp.cli.compose import train_as_composed

        return train_as_composed()
    own = [word for word in words if word.startswith(("resume=", "trust=", "debug="))]
    changes = [word for word in words if word not in own]
    for word in changes:
        key, equals, _ = word.partition("=")
        if word.startswith("-") or not equals or not key:
            raise ConfigError(
                f"{word}: not together with resume=, which takes trainer.max_epochs=, data.path=, trust= and debug=."
            )
    options = read_options(ResumeOptions, own)
    SIGNALS.listen()
    from ffbp.lifecycle.start import resume_run

    resume_run(Path(options.resume), changes, trust=options.trust, debug=options.debug)
    return 0


@dataclass
class CompareOptions:
    """What `compare` can be told."""

    runs: Annotated[str, "the directory below which the runs lie; else logs"] = "logs"
    debug: Annotated[bool, "true for tracebacks in place of one line"] = False


def compare() -> int:
    """Compare all finished runs below a directory: a table, figures and one page."""
    if asks_for_help(sys.argv[1:]):
        show_options(CompareOptions, "Compare finished runs with a table, figures and one page.")
        return 0
    directory = Path(read_options(CompareOptions, sys.argv[1:]).runs)
    from rich.console import Console

    from ffbp.report.page import answers, terminal_table, write_report

    groups = write_report(directory)
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
    console.print(terminal_table(groups))
    console.print("", *answers(groups), sep="\n")
    print(f"\n{directory / 'compare' / 'index.html'}")
    return 0


@dataclass
class DemoOptions:
    """What `demo` can be told."""

    runs: Annotated[list[str], "run directories or checkpoints: one, or [one,another]"]
    out: Annotated[str, "the file to write; else demo.html"] = "demo.html"
    trust: Annotated[list[str], "packages whose classes the runs may name, such as [mine]"] = field(
        default_factory=list
    )
    debug: Annotated[bool, "true for tracebacks in place of one line"] = False


DEMO_HELP = """Write a page on which one draws a digit and trained models answer, in one file that needs no network.

  {0} runs=logs/ff/...
  {0} 'runs=[logs/ff/...,logs/bp/...]' out=demo.html

It takes models of digits (data=mnist, data=digits): mlp and cnn, trained by algo=bp or algo=ff."""


def demo() -> int:
    """Write a page on which one draws a digit and trained models answer."""
    if asks_for_help(sys.argv[1:]):
        show_options(DemoOptions, DEMO_HELP.format(PROGRAM.format("demo")))
        return 0
    options = read_options(DemoOptions, sys.argv[1:])
    from ffbp.demo.page import write_demo

    path = Path(options.out)
    size = write_demo([Path(run) for run in options.runs], path, trust=options.trust)
    print(f"{path} ({size / 1e6:.2f} MB): open it in a browser")
    return 0


COMMANDS = {"train": train, "evaluate": evaluate, "compare": compare, "demo": demo, "runs": runs, "prune": prune}


def usage() -> int:
    """Say which commands there are."""
    if asks_for_help(sys.argv[1:]):
        print("\n".join(f"ffbp {name} --help    {command.__doc__}" for name, command in COMMANDS.items()))
        return 0
    raise ConfigError(f"{' '.join(['ffbp', *sys.argv[1:2]])}: ffbp {', '.join(COMMANDS)} expected.")
