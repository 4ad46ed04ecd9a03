"""Where images come from: MNIST and its relatives as IDX files, and the digits that scikit-learn carries."""

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision import datasets
from torchvision.datasets.utils import download_url

from ffbp.errors import DataError

IDX_SETS = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST, "kmnist": datasets.KMNIST}
CLASSES = 10

# MD5 of the plain files; torchvision knows those of the packed ones, for all three sets
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Labelled(NamedTuple):
    """Images, shape (N, 1, 28, 28), uint8, and their labels, shape (N,), int64."""

    images: Tensor
    labels: Tensor


def digits() -> tuple[Labelled, Labelled]:
    """Load scikit-learn's 1,797 handwritten digits, drawn as large as MNIST's.

    The 8x8 images are enlarged to 24x24 and given a border of zeros, 28x28.

    Returns:
        1,437 images for training and 360 for the test, stratified; the split never changes.
    """
    bunch = load_digits()
    small = torch.from_numpy(bunch.images / 16.0).float().unsqueeze(1)  # (1797, 1, 8, 8) in [0, 1]
    large = interpolate(small, size=(24, 24), mode="bilinear", align_corners=False)
    images = pad(large, (2,) * 4).mul(255).round().to(torch.uint8)  # (1797, 1, 28, 28)
    labels = torch.from_numpy(bunch.target).long()
    train, test = train_test_split(np.arange(len(labels)), test_size=360, stratify=bunch.target, random_state=0)
    return Labelled(images[train], labels[train]), Labelled(images[test], labels[test])


def idx_folder(name: str, data_dir: Path) -> Path:
    """The folder where torchvision keeps the files of a set, such as <data_dir>/MNIST/raw."""
    return data_dir / str(IDX_SETS[name].__name__) / "raw"


def idx_set(name: str, data_dir: Path) -> tuple[Labelled, Labelled]:
    """Read MNIST or a relative from IDX files, plain or .gz; nothing is written.

    Args:
        name: a key of `IDX_SETS`.
        data_dir: the folder that holds MNIST/raw, FashionMNIST/raw, KMNIST/raw.

    Returns:
        the training images and the test images.

    Raises:
        DataError: if a file is missing or damaged, or labels and images do not match.
    """
    return _labelled(name, data_dir, "train"), _labelled(name, data_dir, "t10k")


def download(name: str, data_dir: Path) -> None:
    """Fetch the files of a set that are missing, from torchvision's mirrors, checked against its checksums.

    Raises:
        DataError: if a file cannot be had from any mirror.
    """
    folder = idx_folder(name, data_dir)
    for filename, md5 in IDX_SETS[name].resources:
        if _find(folder, filename.removesuffix(".gz")) is None:
            _download_file(IDX_SETS[name].mirrors, filename, md5, folder)


def _download_file(mirrors: list[str], filename: str, md5: str, folder: Path) -> None:
    problem = "no mirror is known"
    partial = f"{filename}.{os.getpid()}.part"
    for mirror in mirrors:
        try:
            download_url(f"{mirror}{filename}", str(folder), filename=partial, md5=md5)
            (folder / partial).replace(folder / filename)
            return
        except (OSError, RuntimeError) as error:  # what urllib, a read-only folder and a wrong checksum raise
            problem = str(error)
            (folder / partial).unlink(missing_ok=True)
    raise DataError(
        f"{folder / filename}: not there, and not to be had from {len(mirrors)} mirrors ({problem}). "
        f"Put the file there, or use data=digits, which needs no download."
    )


def _find(folder: Path, stem: str) -> Path | None:
    for candidate in (folder / stem, folder / f"{stem}.gz"):
        if candidate.is_file():
            return candidate
    return None


def _labelled(name: str, data_dir: Path, part: str) -> Labelled:
    images = _read_idx(name, data_dir, f"{part}-images-idx3-ubyte", magic=0x803)
    labels = _read_idx(name, data_dir, f"{part}-labels-idx1-ubyte", magic=0x801)
    folder = idx_folder(name, data_dir)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{folder}: {part} images of 28 x 28 expected, {images.shape[1]} x {images.shape[2]} found.")
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} {part} images but {len(labels)} labels; replace the damaged file.")
    if len(labels) == 0:
        raise DataError(f"{folder}: the {part} files hold no images.")
    if labels.max() >= CLASSES:
        raise DataError(f"{folder}: {part} labels of 0 to {CLASSES - 1} expected, {labels.max()} found.")
    return Labelled(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long())


def _read_idx(name: str, data_dir: Path, stem: str, magic: int) -> NDArray[np.uint8]:
    """Read one IDX file: a big-endian magic number, one size a dimension, then bytes."""
    folder = idx_folder(name, data_dir)
    path = _find(folder, stem)
    if path is None:
        raise DataError(
            f"{folder / stem}: no such file, nor with .gz. Put {name}'s IDX files there, set paths.data_dir or "
            f"FFBP_DATA_DIR, allow data.download=true, or use data=digits, which needs no download."
        )
    _verify_checksum(name, path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); replace the file.") from error
    size = 4 + 4 * (magic & 0xFF)  # of the header; the magic number's last byte counts the dimensions
    if len(content) < size:
        raise DataError(f"{path}: a header of {size} bytes expected, {len(content)} found; replace the file.")
    header = np.frombuffer(content[:size], dtype=">u4")
    if header[0] != magic:
        raise DataError(f"{path}: magic number {magic:#010x} expected, {header[0]:#010x} found; replace the file.")
    shape = tuple(int(size) for size in header[1:])
    body = content[header.nbytes :]
    if len(body) != math.prod(shape):
        raise DataError(f"{path}: {math.prod(shape)} bytes after the header expected, {len(body)} found.")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape).copy()


def _verify_checksum(name: str, path: Path) -> None:
    packed = dict(IDX_SETS[name].resources)
    expected = packed.get(path.name) or (MNIST_MD5.get(path.name) if name == "mnist" else None)
    if expected is None:
        return  # a plain file of a set whose plain checksums are not published: its structure is checked
    try:
        found = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error
    if found != expected:
        raise DataError(f"{path}: MD5 {expected} expected, {found} found; replace the damaged file.")
