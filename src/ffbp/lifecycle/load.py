"""Saved runs: which checkpoint is taken, and how it becomes a model again."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from ffbp.algorithms import Algorithm
from ffbp.build import build_algorithm
from ffbp.errors import CheckpointError
from ffbp.lifecycle.checkpoint import FORMAT, read_checkpoint
from ffbp.lifecycle.directory import RunDirectory, differences, nearby_runs, previous_of
from ffbp.lifecycle.fitting import precision_of, require_fitting_model, require_fitting_states
from ffbp.lifecycle.places import OTHER_IMAGES
from ffbp.lifecycle.trust import require_own_files, require_trust
from ffbp.settings import Settings


def load(run: str | Path, *, trust: Sequence[str] = ()) -> Algorithm:
    """Load a trained model; nothing in the files is executed.

    Args:
        run: a run directory, whose best checkpoint is taken, or a checkpoint file.
        trust: names of packages, besides our own, whose classes the run may name.

    Returns:
        the algorithm with its trained stack, in evaluation mode on the CPU; `ffbp.algorithms.answering` says what it
            can be asked, such as `.predict(images)`.

    Raises:
        CheckpointError: if there is no such run, or its checkpoint is damaged or not to be trusted.
    """
    path = Path(run)
    if not path.is_file():
        path = RunDirectory(Path(run)).best
        if not path.is_file():
            raise CheckpointError(f"{run}: contains no run with a checkpoint.{nearby_runs(Path(run))}")
        require_own_files(Path(run))
    content = read_checkpoint(path)
    own: Settings = content["ffbp"]
    require_trust(own, trust)
    require_fitting_model(path, content)
    algorithm = build_algorithm(own["algo"], own["model"], own["image_shape"], own["classes"])
    algorithm.settings = own
    algorithm.to(precision_of(content["state_dict"]))
    algorithm.load_state_dict(content["state_dict"])
    return algorithm.eval()


def require_fitting_files(directory: RunDirectory, settings: Settings) -> None:
    """Raise a CheckpointError if a run's checkpoints are not what its settings ask for, before anything is built."""
    paths = [path for path in (directory.last, previous_of(directory.last)) if path.exists()]
    for path in paths:
        try:
            content = read_checkpoint(path)
        except CheckpointError:
            if path == paths[-1]:
                raise
            continue
        _require_same_settings(path, content, {name: settings[name] for name in ("algo", "model", "seed")})
        require_fitting_model(path, content)


def checkpoint_to_resume(
    directory: RunDirectory, algorithm: Algorithm, callbacks: Iterable[Callback] = ()
) -> Path | None:
    """The checkpoint that a run goes on from, None if it stopped before its first.

    Args:
        directory: of the run.
        algorithm: freshly built, in the precision in which it is trained; its settings must be the checkpoint's.
        callbacks: freshly built, those of the run besides `RunRecord`.

    Raises:
        CheckpointError: if no checkpoint is intact, or one that will be loaded does not fit.
    """
    if not any(path.exists() for path in (directory.last, previous_of(directory.last), directory.rows)):
        print("no checkpoint yet: starting from the beginning", file=sys.stderr)
        return None
    usable = usable_checkpoint(directory.last)
    _require_going_on(usable, read_checkpoint(usable), algorithm, callbacks)
    if directory.best.exists() and (best := _intact(directory.best)):  # a damaged one is named when it is tested
        _require_going_on(directory.best, best, algorithm, callbacks)
    return usable


def _intact(path: Path) -> dict[str, Any] | None:
    try:
        return read_checkpoint(path)
    except CheckpointError:
        return None


def _require_going_on(path: Path, content: dict[str, Any], algorithm: Algorithm, callbacks: Iterable[Callback]) -> None:
    _require_same_settings(path, content, algorithm.settings)
    require_fitting_model(path, content)
    require_fitting_states(path, content, algorithm, callbacks)


def _require_same_settings(path: Path, content: dict[str, Any], settings: Settings) -> None:
    """Raise a CheckpointError if a checkpoint has other settings than those given.

    Downloading does not count, nor do names of classes, which follow from the images.
    """
    here = settings | {"format": FORMAT, "class_names": None}
    there = {name: content["ffbp"].get(name) for name in settings} | {"format": FORMAT, "class_names": None}
    if there.get("images_sha256") != here.get("images_sha256"):
        raise CheckpointError(f"{path}: {OTHER_IMAGES}")
    if "data" in here and isinstance(there["data"], dict):
        there["data"], here["data"] = ({**part["data"], "download": None} for part in (there, here))
    if wrong := differences(there, here):
        raise CheckpointError(f"{path}: has other settings than its run: {'; '.join(line[:200] for line in wrong)}.")


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
