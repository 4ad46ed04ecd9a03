"""Settings of older runs, as this version understands them."""

from collections.abc import Mapping
from typing import Any

ADDED: dict[str, dict[str, Any]] = {}
"""By target, the settings that it did not have from the first, with the value that means what was so before."""


def upgrade(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what the settings of an older run could not say.

    Args:
        settings: of a run, from a checkpoint or from its .hydra; groups with a `_target_` beside plain values.

    Returns:
        new settings; those given are left as they are.
    """
    return {
        name: ADDED.get(part.get("_target_", ""), {}) | part if isinstance(part, dict) else part
        for name, part in settings.items()
    }
