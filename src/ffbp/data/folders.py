"""Images of one's own in folders: one folder for each class, or a train and a test folder of them."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ffbp.data.pictures import SUFFIXES, decode, is_hidden, is_picture, picture_files
from ffbp.data.sources import Labelled
from ffbp.errors import DataError, one_line
from ffbp.memory import require_memory

TRAINING, TEST, VALIDATION = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")
"""What the folders of the parts may be called, in capitals too."""


class OwnImages(NamedTuple):
    """Images of one's own as they were read."""

    training: Labelled
    test: Labelled | None  # None if it is yet to be held out of the others
    class_names: list[str]
    fingerprint: str  # SHA-256 of the files, in their order
    left_out: str  # what lay there and was not read, in words; may be empty


class ClassFolders(NamedTuple):
    """The picture files of each class, and how many other files there are."""

    files: dict[str, list[Path]]
    others: int


def read_folder(folder: Path, size: Sequence[int] | None, channels: Literal[1, 3] | None) -> OwnImages:
    """Read the images in a folder.

    In it lies a folder for each class, named after it, in which images lie at any depth; or folders `train` and `test`
    that contain such folders. The classes are in the order of their names, or of their numbers if all are numbers.

    Args:
        folder: what to read.
        size: height and width to scale all images to; None if they are of one size.
        channels: 1 for grey, 3 for colours; None for colours if any image has some.

    Raises:
        DataError: if there are no images, one is damaged, they differ in size, or test has classes that train lacks.
        ResourceError: if they do not fit into memory.
    """
    parts = _parts(folder)
    names = sorted(parts[0].files, key=_by_number if all(map(str.isdecimal, parts[0].files)) else None)
    if unknown := sorted(set(parts[-1].files) - set(names)):
        raise DataError(f"{folder}: classes in the test folder that the training folder lacks: {', '.join(unknown)}.")
    if len(names) < 2:
        raise DataError(f"{folder}: one class, {names[0]}; at least two expected, each in a folder of its own.")
    # label and file
    listed = [(k, path) for part in parts for k, name in enumerate(names) for path in part.files.get(name, [])]
    digest = hashlib.sha256(repr(names).encode("utf-8", "backslashreplace"))
    images = _read_all([path for _, path in listed], size, channels, digest)
    labels = torch.tensor([k for k, _ in listed])
    count = sum(len(files) for files in parts[0].files.values())
    digest.update(repr((count, labels.tolist())).encode())
    training = Labelled(images[:count], labels[:count])
    test = Labelled(images[count:], labels[count:]) if len(parts) == 2 else None
    others = sum(part.others for part in parts)
    left_out = f"{others} other file{'s' * (others > 1)} left out" if others else ""
    class_names = [one_line(name, 100) or repr(name) for name in names]
    return OwnImages(training, test, class_names, digest.hexdigest(), left_out)


def _by_number(name: str) -> tuple[int, str]:
    return int(name), name


def _parts(folder: Path) -> list[ClassFolders]:
    """The classes of the training and the test folder, or of the folder itself where there are no such folders."""
    if not folder.is_dir():
        if folder.exists():
            raise DataError(f"data.path={folder}: not a folder; a file of arrays is read by data=npz.")
        raise DataError(f"data.path={folder}: no such folder; give data.path= the folder of the images.")
    try:
        by_name = {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir()}
        roles = [next((by_name[name] for name in names if name in by_name), None) for names in (TRAINING, TEST)]
        training, test = roles
        if training is not None and test is not None:
            beside = [path for path in folder.iterdir() if path not in roles]
            found = [_classes(training), _classes(test)]
            return [found[0], found[1]._replace(others=found[1].others + len(beside))]
        if training is not None and (aside := [by_name[name] for name in VALIDATION if name in by_name]):
            raise DataError(
                f"{folder}: {training.name} and {aside[0].name}, but no test; rename {aside[0].name} to test."
            )
        if training is not None and _holds_classes(training):
            raise DataError(
                f"{folder}: {training.name} contains folders of its own, and there is no test folder; add one, or give "
                f"data.path={training}, of which test images are then held out."
            )
        return [_classes(folder)]
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read ({error.strerror}).") from error


def _holds_classes(folder: Path) -> bool:
    entries = [path for path in folder.iterdir() if not is_hidden(path.name)]
    return any(path.is_dir() for path in entries) and not any(map(is_picture, entries))


def _classes(folder: Path) -> ClassFolders:
    entries = sorted(folder.iterdir())
    folders = [path for path in entries if path.is_dir() and not is_hidden(path.name)]
    files, others = {}, len(entries) - len(folders)
    for path in folders:
        files[path.name], more = picture_files(path)
        others += more
    kinds = ", ".join(SUFFIXES)
    if not any(files.values()):
        loose = any(path.suffix.lower() in SUFFIXES for path in entries)
        found = "images that lie in no class folder" if loose else f"no images ({kinds})"
        raise DataError(f"{folder}: {found}; a folder for each class expected, named after it, with its images in it.")
    if empty := [name for name, found in files.items() if not found]:
        raise DataError(f"{folder / empty[0]}: contains no images ({kinds}); add some, or remove the folder.")
    return ClassFolders(files, others)


def _read_all(
    files: Sequence[Path], size: Sequence[int] | None, channels: Literal[1, 3] | None, digest: "hashlib._Hash"
) -> Tensor:
    """Decode picture files into bytes of shape (N, C, H, W), and add their contents to a digest."""
    pictures: list[NDArray[np.uint8]] = []
    console = Console(stderr=True)
    for file in track(files, "reading images", console=console, transient=True, disable=not sys.stderr.isatty()):
        try:
            content = file.read_bytes()
            digest.update(f"{len(content)} ".encode() + content)
            picture = decode(content, size, channels)
        except Exception as error:  # a damaged file may end a reader in any way
            raise DataError(f"{file}: cannot be read as an image ({error}); replace or remove it.") from error
        if not pictures:
            height, width = picture.shape[:2]
            need = f"{len(files):,} images of {height} x {width} pixels, which data.size= scales, held up to four times"
            require_memory(4 * len(files) * height * width * (channels or 3), need, torch.device("cpu"))
        elif picture.shape[:2] != (height, width):
            other = f"{file}: {picture.shape[0]} x {picture.shape[1]}"
            raise DataError(
                f"{files[0]}: {height} x {width} pixels, but {other}. Images of one size expected, or "
                f"'data.size=[{height},{width}]', which scales all of them to that."
            )
        pictures.append(picture)
    depth = 3 if any(picture.ndim == 3 for picture in pictures) else 1
    images = torch.empty(len(files), depth, height, width, dtype=torch.uint8)
    for image, picture in zip(images, pictures, strict=True):
        image.copy_(torch.tensor(picture).view(height, width, -1).permute(2, 0, 1))  # a grey one into every channel
    return images
