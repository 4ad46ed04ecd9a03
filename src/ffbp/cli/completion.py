"""Completion of settings in a shell, by Hydra: eval "$(python train.py -sc install=bash)", or ffbp in its place."""

import os
import re
from collections.abc import Sequence

from ffbp.files import CONF


def asks_for_completion(words: Sequence[str]) -> bool:
    """Whether a shell asks how a command line may go on, or for the code that makes it ask."""
    return not {"-sc", "--shell-completion"}.isdisjoint(words)


def complete() -> int:
    """Let Hydra answer; nothing that only a training needs is imported."""
    os.environ["COMP_LINE"] = re.sub(r"^(\S*ffbp) train\b", r"\1", os.environ.get("COMP_LINE", ""))
    import hydra

    hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")(lambda config: None)()
    return 0
