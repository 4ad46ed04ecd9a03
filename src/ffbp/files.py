"""Text files that are whole at every moment."""

from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.replace(path)
