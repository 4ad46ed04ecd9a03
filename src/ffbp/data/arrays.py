"""Images of one's own as arrays in an .npz file, which NumPy's `savez` or `savez_compressed` wrote."""

import hashlib
import math
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from numpy.lib import format as npy
from numpy.typing import NDArray

from ffbp.data.folders import OwnImages
from ffbp.data.sources import Labelled
from ffbp.errors import DataError
from ffbp.memory import require_memory

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
LONGEST_HEADER = 10_000  # characters


def read_npz(path: Path) -> OwnImages:
    """Read `ARRAYS` from a file; nothing in it is unpickled, and nothing made before its size has been checked.

    Images are uint8, (N, H, W) or (N, H, W, C) with 1 or 3 channels. Labels are whole numbers from 0 on, (N,) or
    (N, 1); each class has a training image. What else is in the file is left out.

    Raises:
        DataError: if the file is missing, damaged or holds something else.
        ResourceError: if the arrays do not fit into memory.
    """
    if not path.is_file():
        kind = (
            "not a file; class folders are read by data=folder"
            if path.exists()
            else "no such file; give data.path= the file of the arrays"
        )
        raise DataError(f"data.path={path}: {kind}.")
    try:
        with path.open("rb") as file:
            fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
            with ZipFile(file) as archive:
                found = {name: _read(archive, name) for name in ARRAYS}
                others = sorted({name.removesuffix(".npy") for name in archive.namelist()} - {*ARRAYS})
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except (BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as an .npz file ({error}); replace it.") from error
    try:
        training, test = (
            _labelled(part, found[f"{part}_images"], found[f"{part}_labels"]) for part in ("train", "test")
        )
        classes = int(training.labels.max()) + 1
        _check_classes(classes, training, test)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    left_out = f"{', '.join(others)} left out" if others else ""
    return OwnImages(training, test, [str(k) for k in range(classes)], fingerprint, left_out)


def _read(archive: ZipFile, name: str) -> NDArray[Any]:
    """One array of an archive; its header is compared with the bytes that are there, before it is made."""
    entry = next((info for info in archive.infolist() if info.filename == f"{name}.npy"), None)
    if entry is None:
        raise DataError(f"contains no array {name}; {', '.join(ARRAYS)} expected.")
    with archive.open(entry) as file:
        version = npy.read_magic(file)
        if version not in HEADERS:
            raise DataError(f"{name}: written in a version of the .npy format that arrays of numbers do not need.")
        shape, _, dtype = HEADERS[version](file, max_header_size=LONGEST_HEADER)
        if dtype.hasobject or dtype.kind not in "iu":
            kind = "images of uint8" if name.endswith("images") else "labels that are whole numbers"
            raise DataError(f"{name}: {kind} expected, {dtype} found.")
        size = math.prod(shape) * dtype.itemsize
        if size != entry.file_size - file.tell():
            raise DataError(f"{name}: {size} bytes expected after its header, {entry.file_size - file.tell()} there.")
        require_memory(4 * size, f"{name} of shape {shape}, in memory up to four times", torch.device("cpu"))
    with archive.open(entry) as file:
        array: NDArray[Any] = npy.read_array(file, allow_pickle=False, max_header_size=LONGEST_HEADER)
        return array


def _labelled(part: str, images: NDArray[Any], labels: NDArray[Any]) -> Labelled:
    """Arrays as `Labelled`; a DataError if they are not what `read_npz` says."""
    if images.dtype != np.uint8:
        raise DataError(f"{part}_images: uint8 expected, {images.dtype} found.")
    shape = images.shape if images.ndim == 4 else (*images.shape, 1)
    if images.ndim not in (3, 4) or shape[3] not in (1, 3) or 0 in shape:
        raise DataError(
            f"{part}_images: shape (N, H, W), or (N, H, W, C) with 1 or 3 channels, expected, {images.shape} found."
        )
    if labels.shape not in ((len(images),), (len(images), 1)):
        raise DataError(f"{part}_labels: {len(images)} labels expected, one an image, shape {labels.shape} found.")
    if labels.min() < 0 or labels.max() > len(images) + 2**20:
        raise DataError(f"{part}_labels: classes from 0 on expected, {labels.min()} to {labels.max()} found.")
    pixels = torch.from_numpy(np.ascontiguousarray(images)).view(shape).permute(0, 3, 1, 2).contiguous()  # (N, C, H, W)
    return Labelled(pixels, torch.from_numpy(labels.reshape(-1).astype(np.int64)))


def _check_classes(classes: int, training: Labelled, test: Labelled) -> None:
    if training.images.shape[1:] != test.images.shape[1:]:
        shapes = " and ".join(str(tuple(part.images.shape[1:])) for part in (training, test))
        raise DataError(f"train_images and test_images of one size expected, {shapes} (C, H, W) found.")
    missing = (training.labels.bincount(minlength=classes) == 0).nonzero().flatten().tolist()
    if missing:
        raise DataError(f"train_labels: no image of class {missing[0]}; number the classes from 0 without gaps.")
    if classes < 2:
        raise DataError("train_labels: one class; at least two expected.")
    if test.labels.max() >= classes:
        raise DataError(f"test_labels: class {test.labels.max()} has no training image; 0 to {classes - 1} expected.")
