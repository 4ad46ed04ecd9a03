"""Text files that somebody else may have written: limited in size and depth, and nothing in them is expanded."""

import json
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from ffbp.errors import CheckpointError

LARGEST_YAML, LARGEST_JSON = 2**16, 2**20  # bytes
LONGEST_VALUE, DEEPEST = 2**12, 16  # characters and levels of a YAML file


def read_yaml(path: Path) -> Any:
    """Read a YAML file without anchors and tags; a CheckpointError if it is missing, too large or anything else."""
    try:
        return yaml.load(read_text(path, LARGEST_YAML), Loader=PlainLoader)
    except (OSError, yaml.YAMLError, ValueError, TypeError, LookupError) as error:
        reason = getattr(error, "problem", None) or error
        raise CheckpointError(f"{path}: cannot be read as settings ({reason}).") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains an object; a CheckpointError if it is missing, too large or anything else."""
    try:
        content = json.loads(read_text(path, LARGEST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); repair or remove the run.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: cannot be read (not an object); repair or remove the run.")
    return content


def read_text(path: Path, most: int) -> str:
    """Read a text file that somebody else may have written.

    Raises:
        OSError: if it is missing, no ordinary file, or cannot be read.
        ValueError: if it has more than `most` bytes or is no UTF-8.
    """
    if path.exists() and not path.is_file():
        raise OSError("not an ordinary file")  # such as a pipe, which would be waited for
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path.name} has more than {most} bytes")
    return content.decode("utf-8")


class PlainLoader(get_yaml_loader()):  # type: ignore[misc]
    """Reads scalars as OmegaConf, which writes such files, and refuses what such a file has no use for."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or event.anchor or event.tag:
            raise yaml.YAMLError("an anchor, alias or tag")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > LONGEST_VALUE:
            raise yaml.YAMLError(f"a value of more than {LONGEST_VALUE} characters")
        if self.depth == DEEPEST:
            raise yaml.YAMLError(f"more than {DEEPEST} levels")
        self.depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node
