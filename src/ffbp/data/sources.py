"""Where images come from: MNIST and its relatives as IDX files, and scikit-learn's handwritten digits."""

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
# MD5 of MNIST's uncompressed files; torchvision knows the checksums of the .gz files of all three data sets
MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class Labelled(NamedTuple):
    """Images, shape (N, C, H, W), uint8, and their labels, shape (N,), int64."""

    images: Tensor
    labels: Tensor


def digits() -> tuple[Labelled, Labelled]:
    """Load scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged to 24x24, with a border of zeros: 28x28.

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
    """The folder where torchvision keeps the files of a data set, such as <data_dir>/MNIST/raw."""
    return data_dir / str(IDX_SETS[name].__name__) / "raw"


def idx_set(name: str, data_dir: Path) -> tuple[Labelled, Labelled]:
    """Read the training and the test images of MNIST or a relative from IDX files, plain or .gz; write nothing.

    Args:
        name: a key of `IDX_SETS`.
        data_dir: the folder that contains MNIST/raw, FashionMNIST/raw, KMNIST/raw.

    Raises:
        DataError: if a file is missing or damaged, or labels and images do not match.
    """
    return _read_part(name, data_dir, "train"), _read_part(name, data_dir, "t10k")


def download(name: str, data_dir: Path) -> None:
    """Fetch the missing files of a data set from torchvision's mirrors; a DataError if all mirrors fail."""
    folder = idx_folder(name, data_dir)
    for filename, md5 in IDX_SETS[name].resources:
        if _find(folder / filename.removesuffix(".gz")) is None:
            _download_file(IDX_SETS[name].mirrors, folder / filename, md5)


def _download_file(mirrors: list[str], path: Path, md5: str) -> None:
    problem = "no mirror is known"
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    for mirror in mirrors:
        try:
            download_url(f"{mirror}{path.name}", str(path.parent), filename=partial.name, md5=md5)
            partial.replace(path)
            return
        except (OSError, RuntimeError) as error:  # a network error, a read-only folder or a wrong checksum
            problem = str(error)
            partial.unlink(missing_ok=True)
    raise DataError(
        f"{path}: missing, and the download failed from every mirror ({problem}). "
        f"Put the file there, or use data=digits, which needs no download."
    )


def _find(file: Path) -> Path | None:
    return next((path for path in (file, file.with_name(f"{file.name}.gz")) if path.is_file()), None)


def _read_part(name: str, data_dir: Path, part: str) -> Labelled:
    folder = idx_folder(name, data_dir)
    images = _read_idx(name, data_dir, f"{part}-images-idx3-ubyte", magic=0x803)
    labels = _read_idx(name, data_dir, f"{part}-labels-idx1-ubyte", magic=0x801)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{folder}: {part} images of 28 x 28 expected, {images.shape[1]} x {images.shape[2]} found.")
    if len(images) != len(labels):
        raise DataError(f"{folder}: {len(images)} {part} images but {len(labels)} labels; replace the damaged file.")
    if len(labels) == 0:
        raise DataError(f"{folder}: the {part} files contain no images.")
    if labels.max() >= CLASSES:
        raise DataError(f"{folder}: {part} labels of 0 to {CLASSES - 1} expected, {labels.max()} found.")
    return Labelled(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long())


def _read_idx(name: str, data_dir: Path, stem: str, magic: int) -> NDArray[np.uint8]:
    """Read one IDX file: a big-endian magic number, the size of each dimension, then bytes."""
    file = idx_folder(name, data_dir) / stem
    path = _find(file)
    if path is None:
        raise DataError(
            f"{file}: no such file, nor with .gz. Put {name}'s IDX files there, set paths.data_dir or "
            f"FFBP_DATA_DIR, allow data.download=true, or use data=digits, which needs no download."
        )
    try:
        content = path.read_bytes()
        # the checksums of the other sets' uncompressed files are not published: their structure alone is checked
        expected = (dict(IDX_SETS[name].resources) | (MNIST_MD5 if name == "mnist" else {})).get(path.name)
        if expected and (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != expected:
            raise DataError(f"{path}: MD5 {expected} expected, {found} found; replace the damaged file.")
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); replace the file.") from error
    length = 4 + 4 * (magic & 0xFF)  # of the header; the magic number's last byte is the number of dimensions
    if len(content) < length:
        raise DataError(f"{path}: a header of {length} bytes expected, {len(content)} found; replace the file.")
    number, *shape = np.frombuffer(content[:length], dtype=">u4").tolist()
    if number != magic:
        raise DataError(f"{path}: magic number {magic:#010x} expected, {number:#010x} found; replace the file.")
    size, rest = math.prod(shape), len(content) - length
    if rest != size:
        raise DataError(f"{path}: {size} bytes after the header expected, {rest} found; replace the file.")
    return np.frombuffer(content, dtype=np.uint8, offset=length).reshape(shape).copy()
