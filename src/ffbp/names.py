"""Names in the order in which a reader looks for them."""

import re


def by_numbers(name: str) -> list[tuple[float, str]]:
    """A key for sorting names, numbers in them by their size: seed=2 before seed=10, layer_9 before layer_10."""
    return [(float(part), "") if part.isdecimal() else (-1.0, part) for part in re.split(r"(\d+)", name)]
