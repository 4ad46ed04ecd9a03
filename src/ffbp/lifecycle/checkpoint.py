"""Checkpoint files that are intact or rejected: written atomically, checksummed, read without running code."""

import io
import os
import shutil
import stat
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from ffbp.errors import CheckpointError
from ffbp.files import writing
from ffbp.lifecycle.archive import read_archive, require_savable
from ffbp.lifecycle.checksum import seal_of, sealed
from ffbp.lifecycle.directory import previous_of
from ffbp.lifecycle.plain_pickle import Unreadable
from ffbp.lifecycle.upgrades import upgrade_checkpoint

FORMAT = 4
"""Version of the file's content; raised when earlier versions of this program could no longer read it."""


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that `path` is at every moment the complete old file or the complete new one.

    The file before it is kept as <name>.previous<suffix>.

    Raises:
        ResourceError: if the folder cannot be written or the disk is full.
    """
    torch.save(content, buffer := io.BytesIO())
    new = path.with_name(f".{path.name}.new")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            file.write(sealed(buffer.getvalue()))
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            _keep(path, previous_of(path))
        new.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, in today's format, without running anything that is in it.

    Raises:
        CheckpointError: if the file is missing, damaged, not one of ours, or holds more than plain data.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise CheckpointError(f"{path}: refused, not a regular file.")
        with path.open("rb") as file:
            _check_digest(path, file)
            content: dict[str, Any] = read_archive(file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).{_offer(path)}") from error
    except Unreadable as error:
        raise CheckpointError(f"{path}: refused, not tensors and plain data as we write them ({error}).") from error
    own = content.get("ffbp") if isinstance(content, dict) else None
    version = own.get("format") if isinstance(own, dict) else None
    if type(version) is not int:
        raise CheckpointError(f"{path}: not a checkpoint of this program.{_offer(path)}")
    if version > FORMAT:
        raise CheckpointError(f"{path}: format {version}, and this program reads up to {FORMAT}; update it.")
    try:
        return upgrade_checkpoint(content) if "state_dict" in content else content
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{path}: refused, not the content of a run's checkpoint.") from error


def replace_damaged(path: Path, other: Path) -> None:
    """Put a good checkpoint in the place of a damaged one, which is kept as <name>.damaged<suffix>.

    Without it the next save would keep the damaged one as the previous.
    """
    if path.exists():
        path.replace(path.with_name(f"{path.stem}.damaged{path.suffix}"))
    _keep(other, path)


def _check_digest(path: Path, file: BinaryIO) -> None:
    """Compare the checksum at a file's end with its bytes; a CheckpointError if it does not match."""
    seal = seal_of(file)
    if seal == "missing":
        raise CheckpointError(f"{path}: not a checkpoint of this program, or truncated.{_offer(path)}")
    if seal == "damaged":
        raise CheckpointError(f"{path}: damaged, its checksum does not match.{_offer(path)}")


def _keep(path: Path, copy: Path) -> None:
    """Give the file at `path` a second name, replacing `copy` in one step."""
    link = copy.with_name(f".{copy.name}.new")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)
    link.replace(copy)


def _offer(path: Path) -> str:
    previous = previous_of(path)
    return f" The one before it is {previous}." if previous.exists() else ""


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's way to our files.

    What callbacks keep of paths below the run's directory is written as paths from there, so that the run can be moved
    and does not tell where it lay. Files are removed below that directory only, or where this process wrote them.

    Args:
        directory: of the run.
    """

    def __init__(self, directory: Path) -> None:
        here = directory.absolute()
        self.places = {"<run>": str(here), "<run, links resolved>": str(here.resolve())}
        self.written: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        for name, place in self.places.items():
            checkpoint = checkpoint | {"callbacks": _moved(checkpoint.get("callbacks", {}), place, name)}
        require_savable(checkpoint)
        write_checkpoint(Path(path), checkpoint)
        self.written.add(Path(path).resolve())

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        content = read_checkpoint(Path(path))
        for name, place in self.places.items():
            content["callbacks"] = _moved(content.get("callbacks", {}), name, place)
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        file = Path(path).resolve()
        ours = file in self.written or file.is_relative_to(self.places["<run, links resolved>"])
        if ours and file.is_file():
            file.unlink()


def _moved(node: Any, old: str, new: str) -> Any:
    """`node` with every path that lies in the folder `old` moved to the folder `new`, keys too."""
    if isinstance(node, dict):
        return {_moved(key, old, new): _moved(child, old, new) for key, child in node.items()}
    if isinstance(node, list | tuple):
        return type(node)(_moved(child, old, new) for child in node)
    inside = isinstance(node, str) and (node == old or node.startswith(f"{old}/"))
    return f"{new}{node[len(old) :]}" if inside else node
