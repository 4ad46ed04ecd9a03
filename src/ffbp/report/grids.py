"""Grids of two settings among runs: the validation accuracy for each pair of their values, as the page shows it."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from ffbp.errors import one_line
from ffbp.lifecycle.job import NOT_OF_THE_RUN
from ffbp.names import by_numbers
from ffbp.report.differences import shortened
from ffbp.report.runs import Group
from ffbp.report.sentences import percent

MOST_VALUES, MOST_GRIDS = 24, 12  # on an axis, for a data set
SHADES = 8  # of the page's colours, see page.css
LEAST_FILLED = 0.5  # more than this share of a grid's cells

Words = dict[str, str]
"""What the command line of a group's runs set, without the seed."""


def for_page(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The grids among the groups of a data set.

    A grid is made of groups whose command lines set the same names, and differ in the values of two of them. Where they
    differ in more, those of each algorithm and model are looked at by themselves.
    """
    families: dict[tuple[str, ...], list[int]] = defaultdict(list)
    words = [_words(group) for group in groups]
    for number, found in enumerate(words):
        families[tuple(sorted(found))].append(number)
    grids = []
    for members in families.values():
        parts = [members]
        if len(_differing([words[number] for number in members])) > 2:
            bases: dict[str, list[int]] = defaultdict(list)
            for number in members:
                bases[groups[number].runs[0].base].append(number)
            parts = list(bases.values())
        for part in parts:
            cells = {number: words[number] for number in part if groups[number].mean("val/acc") is not None}
            if grid := _grid(groups, cells):
                grids.append(grid)
    return grids[:MOST_GRIDS]


def _grid(groups: Sequence[Group], words: Mapping[int, Words]) -> dict[str, Any] | None:
    """A grid of the groups with some numbers; None if they differ in other than two settings, or are too few."""
    names = _differing(list(words.values()))
    if len(names) != 2:
        return None
    values = {name: sorted({found[name] for found in words.values()}, key=_in_order) for name in names}
    down, across = sorted(names, key=lambda name: -len(values[name]))  # the longer one: pages are narrow
    numbers = {(found[down], found[across]): number for number, found in words.items()}
    size = len(values[down]) * len(values[across])
    if len(numbers) < len(words) or len(numbers) <= LEAST_FILLED * size or len(values[down]) > MOST_VALUES:
        return None  # in the first case, something else makes groups of the same words different
    accuracies = {number: groups[number].mean("val/acc") or 0.0 for number in words}
    best, worst = max(accuracies.values()), min(accuracies.values())
    short = shortened(names)

    def cell(row: str, column: str) -> dict[str, Any] | None:
        if (number := numbers.get((row, column))) is None:
            return None
        accuracy = accuracies[number]
        shade = round((SHADES - 1) * (accuracy - worst) / (best - worst)) if best > worst else SHADES - 1
        seeds = len(groups[number].seeds)
        said = f"{percent(groups[number], 'val/acc')} %, {seeds} seed{'' if seeds == 1 else 's'}"
        return {
            "group": number,
            "text": f"{100 * accuracy:.2f}",
            "title": f"{short[down]}={_said(row)}, {short[across]}={_said(column)}: {said}",
            "shade": shade,
            "best": accuracy == best,
        }

    return {
        "title": f"{_said(down)} by {_said(across)}",
        "down": _said(short[down]),
        "across": _said(short[across]),
        "columns": [_said(value) for value in values[across]],
        "rows": [(_said(row), [cell(row, column) for column in values[across]]) for row in values[down]],
        "missing": size - len(numbers),
        "base": bases[0] if len(bases := list({groups[number].runs[0].base: None for number in words})) == 1 else "",
    }


def _words(group: Group) -> Words:
    pairs = (word.lstrip("+").partition("=") for word in group.runs[0].overrides if not NOT_OF_THE_RUN.match(word))
    return {name: value for name, _, value in pairs if name != "seed"}


def _differing(words: Sequence[Words]) -> list[str]:
    names = words[0] if words else {}
    return [name for name in names if len({found[name] for found in words}) > 1]


def _in_order(value: str) -> tuple[float, list[tuple[float, str]]]:
    """A key for sorting: numbers by their size, then texts, with the numbers in them by their size."""
    try:
        number = float(value)
    except ValueError:
        number = math.inf
    # with a space for a bracket, [8] comes before [8,4]
    return number if math.isfinite(number) else math.inf, by_numbers(value.replace("]", " "))


def _said(text: str) -> str:
    return one_line(text, 40)
