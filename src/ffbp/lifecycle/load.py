"""Saved runs: which checkpoint is taken, and how it becomes a model again."""

import sys
from collections.abc import Sequence
from pathlib import Path

from ffbp.algorithms import Algorithm
from ffbp.build import build_algorithm
from ffbp.errors import CheckpointError
from ffbp.lifecycle.checkpoint import FORMAT, previous_of, read_checkpoint
from ffbp.lifecycle.directory import RunDirectory, differences, nearby_runs
from ffbp.lifecycle.trust import require_trust
from ffbp.settings import Settings


def load(run: str | Path, *, trust: Sequence[str] = ()) -> Algorithm:
    """Load a trained model; nothing in the files is executed.

    Args:
        run: a run directory, whose best checkpoint is taken, or a checkpoint file.
        trust: names of packages, besides our own, whose classes the run may name.

    Returns:
        the algorithm with its trained stack, in evaluation mode on the CPU: ask it with `.predict(images)`.

    Raises:
        CheckpointError: if there is no such run, or its checkpoint is damaged or not to be trusted.
    """
    path = Path(run)
    if not path.is_file():
        path = RunDirectory(Path(run)).best
        if not path.is_file():
            raise CheckpointError(f"{run}: contains no run with a checkpoint.{nearby_runs(Path(run))}")
    content = read_checkpoint(path)
    own = content["ffbp"]
    require_trust(own, trust)
    algorithm = build_algorithm(own["algo"], own["model"], own["image_shape"], own["classes"])
    algorithm.settings = own
    try:
        algorithm.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path}: its weights do not fit its settings ({reason}).") from error
    return algorithm.eval()


def checkpoint_to_resume(directory: RunDirectory, settings: Settings) -> Path | None:
    """The checkpoint a run goes on from, None if it stopped before its first; its settings must be those given."""
    if not any(path.exists() for path in (directory.last, previous_of(directory.last), directory.rows)):
        print("no checkpoint yet: starting from the beginning", file=sys.stderr)
        return None
    usable = usable_checkpoint(directory.last)
    if wrong := differences(read_checkpoint(usable)["ffbp"] | {"format": FORMAT}, settings):
        raise CheckpointError(f"{usable}: has other settings than its run: {'; '.join(wrong)}.")
    return usable


def usable_checkpoint(path: Path) -> Path:
    """The checkpoint at `path` if it is intact, else the one before it, saying so; a CheckpointError if neither is."""
    try:
        read_checkpoint(path)
    except CheckpointError as error:
        previous = previous_of(path)
        if not previous.exists():
            raise
        read_checkpoint(previous)
        print(f"{error} Resuming from that one.", file=sys.stderr)
        return previous
    return path
