"""Files of finished runs that can be spared: earlier checkpoints, and on request what only a longer training needs."""

import os
import stat
from pathlib import Path
from typing import NamedTuple

from ffbp.errors import CheckpointError
from ffbp.lifecycle.checksum import seal_of
from ffbp.lifecycle.directory import RunDirectory, previous_of

PREVIOUS = ("best.previous.ckpt", "last.previous.ckpt")
ALL_BUT_BEST = (*PREVIOUS, "best.damaged.ckpt", "last.damaged.ckpt", "last.ckpt")
"""What may be removed, in this order; nothing else is."""


class Spared(NamedTuple):
    """A file that is, or would be, removed."""

    name: str
    freed: int  # bytes; 0 where the same bytes have another name that stays


def is_pruned(directory: RunDirectory) -> bool:
    """Whether a run was finished, and has its best checkpoint but no last one to go on from."""
    lasts = (directory.last, previous_of(directory.last))
    return directory.metrics.exists() and directory.best.exists() and not any(path.exists() for path in lasts)


def prune(directory: RunDirectory, *, only_best: bool, remove: bool) -> list[Spared]:
    """Remove the checkpoints of a finished run that can be spared, or say which they are.

    What stays is best.ckpt, and last.ckpt unless `only_best`: they are looked at first, and nothing is removed unless
    they are intact. Links are not followed, and what is no ordinary file stays where it is.

    Args:
        directory: of the run; one that is not finished is left alone.
        only_best: remove last.ckpt and damaged checkpoints too; the run can then be used, but not trained longer.
        remove: whether to do it.

    Raises:
        CheckpointError: if one of its files is damaged.
        ConfigError: if another process works in the directory.
    """
    with directory.locked():
        status = directory.read_status()
        if status is None or status.state != "finished" or directory.read_metrics() is None:
            return []
        try:
            folder = os.open(directory.best.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:  # a link, or there is none
            return []
        try:
            found = _files(folder, ALL_BUT_BEST if only_best else PREVIOUS)
            for path in ((directory.best,) if only_best else (directory.best, directory.last)) if found else ():
                _require_intact(path, folder)
            for file in found if remove else ():
                os.unlink(file.name, dir_fd=folder)
            return found
        finally:
            os.close(folder)


def _files(folder: int, names: tuple[str, ...]) -> list[Spared]:
    """The ordinary files among some names in an open folder."""
    found = []
    for name in names:
        try:
            file = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISREG(file.st_mode):
            found.append((name, file))
    places = [(file.st_dev, file.st_ino) for _, file in found]
    spared = []
    for number, (name, file) in enumerate(found):  # bytes with several names are free once the last of them is removed
        last = places.count(places[number]) >= file.st_nlink and places[number] not in places[number + 1 :]
        spared.append(Spared(name, file.st_size if last else 0))
    return spared


def _require_intact(path: Path, folder: int) -> None:
    """Raise a CheckpointError unless a checkpoint in an open folder is an ordinary file with its own checksum."""
    try:
        file = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); nothing of this run is removed.") from error
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode) or seal_of(opened) != "intact":
            raise CheckpointError(f"{path}: damaged; nothing of this run is removed.")
