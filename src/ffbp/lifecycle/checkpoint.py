"""Checkpoint files that are intact or rejected: written atomically, checksummed, read without running code."""

import hashlib
import io
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from ffbp.errors import CheckpointError
from ffbp.files import writing
from ffbp.lifecycle.upgrades import upgrade_checkpoint

FORMAT = 4
"""Version of the file's content; raised when earlier versions of this program could no longer read it."""

# A checkpoint is a zip archive, and a zip archive may end in a comment: ours is its own checksum.
_COMMENT = re.compile(rb"sha256:([0-9a-f]{64})\Z")
_COMMENT_SIZE = len("sha256:") + 64


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint so that `path` is at every moment the complete old file or the complete new one.

    The file before it is kept as <name>.previous<suffix>.

    Raises:
        ResourceError: if the folder cannot be written or the disk is full.
    """
    torch.save(content, buffer := io.BytesIO())
    # the archive ends in the length of its comment, two bytes, so far 0; the digest covers all that comes before them
    body = buffer.getvalue()[:-2]
    comment = b"sha256:" + hashlib.sha256(body).hexdigest().encode()
    new = path.with_name(f".{path.name}.new")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with new.open("wb") as file:
            file.write(body + len(comment).to_bytes(2, "little") + comment)
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
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).{_offer(path)}") from error
    found = _COMMENT.search(data[-_COMMENT_SIZE:])
    if found is None:
        raise CheckpointError(f"{path}: not a checkpoint of this program, or truncated.{_offer(path)}")
    if hashlib.sha256(data[: -_COMMENT_SIZE - 2]).hexdigest().encode() != found[1]:
        raise CheckpointError(f"{path}: damaged, its checksum does not match.{_offer(path)}")
    try:
        content: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: contains something other than tensors and plain data; refused.") from error
    own = content.get("ffbp") if isinstance(content, dict) else None
    version = own.get("format") if isinstance(own, dict) else None
    if not isinstance(version, int):
        raise CheckpointError(f"{path}: not a checkpoint of this program.{_offer(path)}")
    if version > FORMAT:
        raise CheckpointError(f"{path}: format {version}, and this program reads up to {FORMAT}; update it.")
    return upgrade_checkpoint(content) if "state_dict" in content else content


def previous_of(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def replace_damaged(path: Path, other: Path) -> None:
    """Put a good checkpoint in the place of a damaged one, which is kept as <name>.damaged<suffix>.

    Without it the next save would keep the damaged one as the previous.
    """
    if path.exists():
        path.replace(path.with_name(f"{path.stem}.damaged{path.suffix}"))
    _keep(other, path)


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
    """Lightning's way to our files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read_checkpoint(Path(path))
