"""The commands about runs on disk: list them, and remove what can be spared."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Literal

from ffbp.cli.words import Options, asks_for_help, read_options, show_options
from ffbp.errors import CheckpointError, ConfigError, Refusal, one_line

if TYPE_CHECKING:
    from ffbp.runs import Listed

MEGABYTE = 1e6
LONGEST_VALUE, SHORTEST_PATH = 24, 30  # characters
ALWAYS = ("state", "epochs", "val/acc", "test/acc", "seconds", "size", "path")  # columns of every table


@dataclass
class RunsOptions:
    """What `runs` can be told, besides the values by which runs are chosen."""

    runs: Annotated[str, "the directory below which the runs lie; else logs"] = "logs"
    sort: Annotated[
        str, "a setting or metric; accuracies and size from the highest, all else from the lowest; -: reversed"
    ] = ""
    limit: Annotated[str, "how many to list at most"] = ""
    show: Annotated[list[str], "settings and metrics to show in place of those in which they differ: lr,seed"] = field(
        default_factory=list
    )
    paths: Annotated[bool, "true to print paths alone, for use in a shell"] = False
    debug: Annotated[bool, "true for tracebacks in place of one line"] = False


CHOOSING = """Any other name=value chooses runs: by a setting (algo, model and data are those of their names), by a
metric, or by state, which is finished, running, killed, failed, interrupted or unknown. Several values: seed=0,1. In
zsh, put quotes around brackets: 'model.widths=[500,500]'.
"""

RUNS_HELP = f"""List runs, with the settings in which they differ.

  ffbp runs
  ffbp runs algo=ff algo.optimizer.lr=0.01 state=finished sort=val/acc limit=10
  ffbp evaluate run="$(ffbp runs algo=ff sort=val/acc limit=1 paths=true)"

{CHOOSING}"""


def runs() -> int:
    """List runs: chosen by their settings, sorted by a metric, as a table or as paths."""
    if asks_for_help(sys.argv[1:]):
        show_options(RunsOptions, RUNS_HELP)
        return 0
    options, wanted = _with_filters(RunsOptions, sys.argv[1:])
    if options.limit and not (options.limit.isdecimal() and int(options.limit)):
        raise ConfigError(f"limit={options.limit}: a whole number above 0 expected.")
    show = [name for word in options.show for name in word.split(",") if name]
    from ffbp.runs import in_order, list_runs, require_known

    found = list_runs(Path(options.runs))
    require_known(found, show)
    chosen = _chosen(found, wanted, options.runs)
    if options.sort:
        chosen = in_order(chosen, options.sort)
    listed = chosen[: int(options.limit)] if options.limit else chosen
    if options.paths:
        print("\n".join(str(run.path) for run in listed))
        return 0
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    for line in table(listed, show, width):
        print(line)
    total = sum(run.size for run in listed) / MEGABYTE
    print(f"\n{len(listed)} of {len(found)} runs, {total:.1f} MB")
    return 0


@dataclass
class PruneOptions:
    """What `prune` can be told, besides the values by which runs are chosen."""

    runs: Annotated[str, "the directory below which the runs lie; else logs"] = "logs"
    keep: Annotated[Literal["last", "best"], "best: remove last.ckpt too; else runs can still be trained longer"] = (
        "last"
    )
    yes: Annotated[bool, "true to remove the files; else they are only named"] = False
    debug: Annotated[bool, "true for tracebacks in place of one line"] = False


PRUNE_HELP = f"""Remove checkpoints of finished runs that can be spared. Without yes=true, only say which.

  ffbp prune                          the ones before: best.previous.ckpt, last.previous.ckpt
  ffbp prune keep=best                all but best.ckpt, which evaluate, compare and demo use
  ffbp prune keep=best algo=ff yes=true

Runs that are not finished are left alone, and so is all else in the directories.

{CHOOSING}"""


def prune() -> int:
    """Remove checkpoints of finished runs that can be spared; without yes=true, only say which."""
    if asks_for_help(sys.argv[1:]):
        show_options(PruneOptions, PRUNE_HELP)
        return 0
    options, wanted = _with_filters(PruneOptions, sys.argv[1:])
    from ffbp.lifecycle.directory import RunDirectory
    from ffbp.lifecycle.prune import prune as prune_run
    from ffbp.runs import list_runs

    files, freed, pruned = 0, 0, 0
    for run in _chosen(list_runs(Path(options.runs)), wanted, options.runs):
        if run.state != "finished":
            continue
        try:
            spared = prune_run(RunDirectory(run.path), only_best=options.keep == "best", remove=options.yes)
        except Refusal as error:
            print(f"skipped: {one_line(error)}", file=sys.stderr)
            continue
        if spared:
            size = sum(file.freed for file in spared)
            print(f"{one_line(run.path)}: {', '.join(file.name for file in spared)} ({size / MEGABYTE:.1f} MB)")
            files, freed, pruned = files + len(spared), freed + size, pruned + 1
    what = f"{files} files of {pruned} finished runs, {freed / MEGABYTE:.1f} MB"
    if not files:
        print("nothing to remove")
    else:
        print(f"removed {what}" if options.yes else f"would remove {what}; add yes=true to remove them")
    return 0


def table(runs: Sequence["Listed"], show: Sequence[str], width: int | None) -> list[str]:
    """Runs as the lines of a table.

    Args:
        runs: at least one.
        show: settings and metrics to show in place of those in which the runs differ.
        width: of the terminal; columns and parts of paths that do not fit are left out. None for all of them.
    """
    from ffbp.report.differences import shortened
    from ffbp.runs import columns

    names = list(show) or columns(runs)
    titles = shortened(names)
    left = [_column("state", [run.state for run in runs])]
    middle = [_column(titles[name], [_cell(run, name) for run in runs]) for name in names if name not in ALWAYS]
    right = [_column(name, [_cell(run, name) for run in runs]) for name in ("epochs", "val/acc", "test/acc")]
    right += [
        _column("seconds", [_number(run.value("seconds")) for run in runs]),
        _column("MB", [_number(run.size / MEGABYTE) for run in runs]),
    ]
    longest = max(len(one_line(run.path)) for run in runs)
    free = sys.maxsize if width is None else width - min(longest, SHORTEST_PATH)
    free -= sum(len(column[0]) + 2 for column in [*left, *right])
    fitting = []
    for column in middle:
        free -= len(column[0]) + 2
        if free < 0:
            break
        fitting.append(column)
    columns_shown = [*left, *fitting, *right]
    taken = sum(len(column[0]) + 2 for column in columns_shown)
    room = sys.maxsize if width is None else max(width - taken, 10)
    paths = ["path", *(_shortened_path(one_line(run.path), room) for run in runs)]
    lines = ["  ".join(cells).rstrip() for cells in zip(*columns_shown, paths, strict=True)]
    if rest := names[len(fitting) :]:
        lines.append(f"They differ in {', '.join(rest)} too: show={','.join(rest[:2])}")
    return lines


def _chosen(found: Sequence["Listed"], wanted: dict[str, str], folder: str) -> list["Listed"]:
    from ffbp.runs import choose

    chosen = choose(found, wanted)
    if not chosen:
        words = " ".join(f"{name}={value}" for name, value in wanted.items())
        raise CheckpointError(f"{folder}: none of its {len(found)} runs has {words}.")
    return chosen


def _with_filters(kind: type[Options], words: Sequence[str]) -> tuple[Options, dict[str, str]]:
    """The options among a command's words, and the others, by which runs are chosen."""
    own = {option.name for option in fields(kind)}  # type: ignore[arg-type]
    wanted: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise ConfigError(f"{word}: name=value expected; see --help.")
        if name not in own and name in wanted:
            raise ConfigError(f"{name}= is given twice; write {name}={wanted[name]},{value} for either.")
        if name not in own:
            wanted[name] = value
    return read_options(kind, [word for word in words if word.partition("=")[0] in own]), wanted


def _column(title: str, cells: Sequence[str]) -> list[str]:
    """A title and cells, all of one width: texts to the left, numbers to the right."""
    width = max(map(len, (title, *cells)))
    number = all(cell.replace(".", "", 1).replace("e-", "").isdecimal() or cell == "-" for cell in cells)
    return [f"{cell:>{width}}" if number else f"{cell:<{width}}" for cell in (title, *cells)]


def _cell(run: "Listed", name: str) -> str:
    from ffbp.report.differences import shown

    value = run.value(name)
    if isinstance(value, float) and name in run.metrics:
        return f"{value:.4f}" if abs(value) < 100 else f"{value:.1f}"
    return "-" if value is None else one_line(shown(value), LONGEST_VALUE)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _shortened_path(path: str, room: int) -> str:
    """A path, without its middle if it is longer than the room for it."""
    if len(path) <= room:
        return path
    head = (room - 1) // 3
    return f"{path[:head]}…{path[len(path) - (room - 1 - head) :]}"
