"""The commands: train, evaluate and compare."""

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from ffbp.cli.compose import read_options, train_as_composed
from ffbp.cli.refusals import exit_code_of
from ffbp.errors import ConfigError
from ffbp.lifecycle.start import resume_run
from ffbp.processes import FIRST_PROCESS, SIGNALS


def main(command: str | None = None) -> NoReturn:
    """Run a command; without one, the command that the first word names: `ffbp train algo=ff`."""
    if command is None and sys.argv[1:2] and sys.argv[1] in COMMANDS:
        command = sys.argv.pop(1)
    if command is None and not FIRST_PROCESS:  # which a training has started, with its own words
        command = "train"
    # read when PyTorch is imported: several processes always look for unused parameters, and it warns without any
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    sys.exit(exit_code_of(COMMANDS.get(command or "", usage), debug="debug=true" in sys.argv))


def train() -> int:
    """Train an algorithm on a model and test it; or a sweep of such runs; or resume one."""
    if not any(word.startswith("resume=") and word not in ("resume=", "resume=null") for word in sys.argv[1:]):
        return train_as_composed()
    SIGNALS.listen()
    resume_run(sys.argv[1:])
    return 0


@dataclass
class EvaluateOptions:
    """What `evaluate` can be told."""

    run: str = "???"  # a run directory or a checkpoint
    images: list[str] = field(default_factory=list)  # files or folders of white digits on black
    invert: bool = False  # they are black on white
    data_dir: str = "${oc.env:FFBP_DATA_DIR,data}"  # where downloadable data sets are
    trust: list[str] = field(default_factory=list)  # packages whose classes the run may name
    debug: bool = False  # tracebacks in place of one line


def evaluate() -> int:
    """Print a run's test metrics again, or what its model sees in images."""
    options = read_options(EvaluateOptions)
    from ffbp.evaluation import read_images, test_metrics  # here, so that a mistyped word need not wait for PyTorch
    from ffbp.lifecycle.load import load

    model = load(options.run, trust=options.trust)
    if not options.images:
        print(json.dumps(test_metrics(model, options.data_dir), indent=2))
        return 0
    names, images = read_images([Path(name) for name in options.images], model.stack.image_shape, options.invert)
    for name, label in zip(names, model.predict(images).tolist(), strict=True):
        print(f"{name}\t{label}")
    return 0


@dataclass
class CompareOptions:
    """What `compare` can be told."""

    runs: str = "logs"  # the directory below which they lie
    debug: bool = False


def compare() -> int:
    """Compare all finished runs below a directory: a table, figures and one page."""
    directory = Path(read_options(CompareOptions).runs)
    from rich.console import Console

    from ffbp.report.page import terminal_table, write_report

    groups = write_report(directory)
    Console(width=None if sys.stdout.isatty() else 160).print(terminal_table(groups))
    print(f"\n{directory / 'compare' / 'index.html'}")
    return 0


COMMANDS = {"train": train, "evaluate": evaluate, "compare": compare}


def usage() -> int:
    """Say which commands there are."""
    raise ConfigError(f"{' '.join(['ffbp', *sys.argv[1:2]])}: ffbp {', '.join(COMMANDS)} expected.")
