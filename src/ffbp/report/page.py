"""The comparison in a folder: one self-contained HTML page, and its tables and figures as files."""

import json
import os
import re
import shlex
import sys
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from pydantic import TypeAdapter

from ffbp.errors import ConfigError
from ffbp.files import PROGRAM, write_bytes, write_text, writing
from ffbp.plain_text import read_text
from ffbp.report import curves, grids, mistakes
from ffbp.report.differences import differing, flat, shown
from ffbp.report.figures import draw
from ffbp.report.runs import Found, Group, Run, find_runs, group_runs, require_finished
from ffbp.report.sentences import answers, conclusions
from ffbp.report.table import cells, columns, groups_csv, readouts_of, row, runs_csv, terminal_table

__all__ = ["answers", "row", "terminal_table", "write_report"]

LISTING = ".written.json"
"""The names of the files in a compare folder that are ours to replace."""
FIGURES = ("loss.png", "loss.svg", "acc.png", "acc.svg")
DRAWN_AT_FIRST = 8
"""How many groups' curves the page shows until others are chosen."""
TABLES = ("groups.csv", "runs.csv")
ASSETS = Path(__file__).parent

# accuracy in %, seconds and epochs as the article gives them, measured on its authors' hardware
ARTICLE = (
    {"label": "the article: backprop, CNN", "accuracy": "over 98", "seconds": "323.5", "epochs": "5"},
    {"label": "the article: Forward-Forward, 784-128-10", "accuracy": "about 79", "seconds": "134.5", "epochs": "100"},
)
VERSIONS = ("torch", "lightning", "python", "device", "threads", "git")


def write_report(directory: Path) -> list[Group]:
    """Compare all finished runs below a directory, in <directory>/compare; return them in groups, best first.

    Raises:
        CheckpointError: if there are no finished runs.
        ConfigError: if that folder contains files of somebody else that would be written over.
    """
    found = require_finished(find_runs(directory), directory)
    if found.unfinished:
        print(f"not finished: {len(found.unfinished)} of the runs, which the page lists", file=sys.stderr)
    groups = group_runs(found.runs)
    folder = directory / "compare"
    names = _file_names([group.first["data"] for group in groups])
    _claim(folder, ["index.html", *TABLES, *(figure for figures in names.values() for figure in figures.values())])
    sets = []
    for name, figures in names.items():
        of_set = [group for group in groups if group.first["data"] == name]
        for quantity in ("loss", "acc"):
            paths = [folder / figures[f"{quantity}.{kind}"] for kind in ("png", "svg")]
            with writing(paths[0]):
                for path in paths:
                    path.unlink(missing_ok=True)  # it might be a link that leads elsewhere
                draw(of_set, quantity, *paths)
        sets.append({**_data_set(name, of_set, directory, 1 / len(names)), "files": list(figures.values())})
    written = {"groups.csv": groups_csv(groups), "runs.csv": runs_csv(groups), "index.html": render(sets, found)}
    for name, text in written.items():  # a folder's name need not be UTF-8
        write_bytes(folder / name, text.encode("utf-8", "backslashreplace"))
    return groups


def render(sets: Sequence[Mapping[str, Any]], found: Found) -> str:
    """The page, which may run its own script and no other, and fetch nothing."""
    style, script = (
        "".join((ASSETS / name).read_text(encoding="utf-8") for name in names)
        for names in (("page.css",), ("chart.js", "answers.js", "page.js"))
    )
    allowed = {"style": style, "script": script}
    hashes = {name: b64encode(sha256(text.encode()).digest()).decode() for name, text in allowed.items()}
    policy = f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
    policy += "img-src data:; base-uri 'none'; form-action 'none'"
    drawn = [{name: part[name] for name in ("name", "groups", "answers")} for part in sets]
    data = json.dumps(drawn, separators=(",", ":"), ensure_ascii=True, allow_nan=False).translate(
        {ord(character): f"\\u{ord(character):04x}" for character in "<>&"}  # which end no script and begin no entity
    )
    lines = [*found.damaged, *(line for part in sets for line in part["left_out"])]
    template = Environment(loader=PackageLoader("ffbp.report", "."), autoescape=True, trim_blocks=True)
    return template.get_template("page.html.j2").render(
        sets=sets,
        unfinished=[entry._asdict() | {"link": _link(entry.directory)} for entry in found.unfinished],
        left_out=lines,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        data=Markup(data),
        tables=TABLES,
        written=datetime.now().strftime("%Y-%m-%d %H:%M"),
    )


def _data_set(name: str, groups: Sequence[Group], directory: Path, share: float) -> dict[str, Any]:
    """What the page shows of one data set; it has `share` of the room for images."""
    readouts = readouts_of(groups)
    answers, left_out = mistakes.for_page(groups, directory, share)
    answer, *more = conclusions(groups)
    drawn = _drawn_at_first(groups)
    differ = differing([group.runs[0].effective for group in groups])
    differ = [name for name in differ if not name.startswith(("algo._target_", "algo.name", "model._", "model.name"))]
    return {
        "name": name,
        "answer": answer,
        "more": more,
        "columns": columns(groups, readouts),
        "rows": [{"label": group.label, "cells": cells(group, readouts)} for group in groups],
        "article": ARTICLE if name == "mnist" else (),
        "made": [_made(group, differ, directory) for group in groups],
        "groups": [{"label": group.label, "drawn": group in drawn, **curves.for_page(group)} for group in groups],
        "answers": answers,
        "grids": grids.for_page(groups),
        "left_out": left_out,
    }


def _drawn_at_first(groups: Sequence[Group]) -> list[Group]:
    """The best group of each algorithm and model, and then the best of all."""
    bases = [group.runs[0].base for group in groups]
    leading = [group for number, group in enumerate(groups) if bases[number] not in bases[:number]]
    others = [group for group in groups if group not in leading]
    return [*leading, *others][:DRAWN_AT_FIRST]


def _made(group: Group, differ: Sequence[str], directory: Path) -> dict[str, Any]:
    """How a group was made, so that it can be made, and its runs be found, again."""
    first = group.runs[0]
    versions = {
        name: " and ".join(dict.fromkeys(str(run.metrics.get(name) or "?") for run in group.runs)) for name in VERSIONS
    }
    runs = [
        {
            "seed": run.metrics["seed"],
            "accuracy": f"{100 * run.metrics['test/acc']:.2f}",
            "seconds": f"{run.metrics['time/train_seconds']:.1f}",
            "ended": _ended(directory / run.directory / "metrics.json"),
            "git": run.metrics.get("git") or "?",
            "directory": run.directory,
            "link": _link(run.directory),
        }
        for run in group.runs
    ]
    return {
        "label": group.label,
        "differ": {name: shown(first.effective[name]) for name in differ if name in first.effective},
        "commands": _commands(group.runs),
        "versions": versions,
        "runs": runs,
        "settings": {name: shown(value) for name, value in flat(first.settings).items()},
    }


def _commands(runs: Sequence[Run]) -> list[str]:
    """The commands that make a group again: one for all seeds, or several if different words came to the same."""
    seeds: dict[tuple[str, ...], list[int]] = {}
    for run in runs:
        words = tuple(word for word in run.overrides if not word.startswith("seed="))
        seeds.setdefault(words, []).append(run.metrics["seed"])
    commands = []
    for words, numbers in seeds.items():
        of_seeds = sorted(set(numbers))
        program = [*PROGRAM.format("train").split(), *(["-m"] if len(of_seeds) > 1 else [])]
        commands.append(shlex.join([*program, *words, f"seed={','.join(map(str, of_seeds))}"]))
    return commands


def _ended(path: Path) -> str:
    """When a run ended, by the time of its metrics.json."""
    try:
        return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
    except OSError:
        return "?"


def _link(directory: str) -> str:
    """From the page to a run's directory, as a relative address."""
    return f"../{quote(os.fsencode(directory))}/"


def _file_names(data: Sequence[str]) -> dict[str, dict[str, str]]:
    """For each data set, its figures' file names by quantity and type: ("loss.png": "mnist_loss.png").

    The name of a data set may be anything that a metrics.json says, such as ../../x.
    """
    stems: dict[str, str] = {}
    for name in data:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:60]
        while name not in stems and stem in stems.values():
            stem += "_"
        stems.setdefault(name, stem)
    return {name: {figure: f"{stem}_{figure}" for figure in FIGURES} for name, stem in stems.items()}


def _claim(folder: Path, names: Sequence[str]) -> None:
    """List the files about to be written; a ConfigError if one is there that an earlier listing does not have."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{folder}: is no folder of this program; move it away.")
    listing, listed = folder / LISTING, []
    if listing.is_symlink() or listing.exists():
        try:
            listed = TypeAdapter(list[str]).validate_json(read_text(listing, 1_000_000))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{listing}: was not written by compare; move {folder} away.") from error
    for name in names:
        if name not in listed and ((folder / name).is_symlink() or (folder / name).exists()):
            raise ConfigError(f"{folder / name}: was not written by this version of compare; move {folder} away.")
    write_text(listing, json.dumps(sorted({*names, *listed}), indent=2) + "\n")
