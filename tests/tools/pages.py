"""The pages below docs/, as tests read them."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {path.name: path.read_text() for path in sorted(DOCS.glob("*.md"))}
TEXTS = {name: re.sub(r"```.*?```", "", text, flags=re.DOTALL) for name, text in PAGES.items()}  # without code blocks


def rows(page: str, head: str) -> list[list[str]]:
    """The cells of a page's table whose first line begins with `head`, without that line."""
    body = re.search(rf"\n\| {re.escape(head)} \|[^\n]*\n\|[-|]+\n((?:\|[^\n]*\n)+)", PAGES[page])
    assert body, f"{page}: no table {head}"
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in body[1].splitlines()]
