"""Where images come from: MNIST and its relatives as IDX files, and scikit-learn's handwritten digits."""

import gzip
import hashlib
import io
import math
import os
import sys
import time
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision import datasets

from ffbp.data.drawings import Frame
from ffbp.errors import DataError
from ffbp.files import writing

IDX_SETS = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST, "kmnist": datasets.KMNIST}
CLASSES = 10
FRAMES = {"mnist": Frame(ink=20, cells=28), "digits": Frame(ink=8, cells=8, enlarged=3, border=2, by_mass=False)}
"""How the data sets of handwritten digits place them in an image; the others show something else."""
LARGEST = 200_000_000
"""Bytes in a file; those of the largest set have 47 million, unpacked."""
PATIENCE = 20.0
"""Seconds to wait for a server's next bytes, and before it is asked for a speed."""
SLOWEST = 1000.0
"""Bytes a second, since the beginning, below which a server is given up."""
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
    from sklearn.datasets import load_digits  # here, since a model is loaded and asked without it
    from sklearn.model_selection import train_test_split

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
    """Fetch the missing files of a data set from torchvision's mirrors.

    Raises:
        DataError: if all mirrors fail, be it by silence.
        ResourceError: if the folder cannot be written.
    """
    folder = idx_folder(name, data_dir)
    for filename, md5 in IDX_SETS[name].resources:
        if _find(folder / filename.removesuffix(".gz")) is None:
            _download_file(IDX_SETS[name].mirrors, folder / filename, md5)


def _download_file(mirrors: Sequence[str], path: Path, md5: str) -> None:
    problem: object = "no mirror is known"
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    for mirror in mirrors:
        try:
            content = _fetch(f"{mirror}{path.name}")
        except (OSError, HTTPException) as error:  # of the network, or of what the server says
            problem = error
            continue
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
            problem = f"{mirror} sent another file"
            continue
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                partial.write_bytes(content)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return
    raise DataError(
        f"{path}: missing, and the download failed from every mirror ({problem}). "
        f"Put the file there, or use data=digits, which needs no download."
    )


def _fetch(address: str) -> bytes:
    """What a server sends, with a progress bar where there is a terminal; an OSError if it is slow, or sends no end."""
    request = Request(address, headers={"User-Agent": "ffbp"})
    content, begun = bytearray(), time.monotonic()
    with urlopen(request, timeout=PATIENCE) as response:
        size = int(response.headers.get("Content-Length") or 0) or None
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
            shown = progress.add_task(address.rpartition("/")[2], total=size)
            while part := response.read1(2**16):  # which waits for some bytes, not for so many
                content += part
                progress.update(shown, completed=len(content))
                if len(content) > LARGEST:
                    raise OSError(f"{address} sent more than {LARGEST} bytes")
                if len(content) < SLOWEST * (time.monotonic() - begun - PATIENCE):
                    raise OSError(f"{address} sent less than {SLOWEST:g} bytes a second")
    return bytes(content)


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
    # the checksums of the other sets' uncompressed files are not published: their structure alone is checked
    expected = (dict(IDX_SETS[name].resources) | (MNIST_MD5 if name == "mnist" else {})).get(path.name)
    length = 4 + 4 * (magic & 0xFF)  # of the header; the magic number's last byte is the number of dimensions
    try:
        if path.stat().st_size > LARGEST:
            raise DataError(f"{path}: at most {LARGEST} bytes expected; replace the file.")
        content = path.read_bytes()
        if expected and (found := hashlib.md5(content, usedforsecurity=False).hexdigest()) != expected:
            raise DataError(f"{path}: MD5 {expected} expected, {found} found; replace the damaged file.")
        packed = io.BytesIO(content)
        with gzip.GzipFile(fileobj=packed) if path.suffix == ".gz" else packed as unpacked:
            header = unpacked.read(length)
            if len(header) < length:
                raise DataError(f"{path}: a header of {length} bytes expected, {len(header)} found; replace the file.")
            number, *shape = np.frombuffer(header, dtype=">u4").tolist()
            if number != magic:
                raise DataError(f"{path}: magic number {magic:#010x} expected, {number:#010x} found; replace the file.")
            size = math.prod(shape)
            body = bytearray(unpacked.read(min(size, LARGEST) + 1))  # which may be written to, as PyTorch wishes
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); replace the file.") from error
    if size == 0:
        raise DataError(f"{path}: contains nothing; replace the file.")
    if len(body) != size:
        rest = "more" if len(body) > size else len(body)
        raise DataError(f"{path}: {size} bytes after the header expected, {rest} found; replace the file.")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)
