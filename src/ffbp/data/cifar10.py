"""CIFAR-10 as torchvision lays it out: <data_dir>/cifar-10-batches-py."""

from pathlib import Path

import torch
from torchvision import datasets

from ffbp.data.sources import Labelled, _download_file
from ffbp.errors import DataError
from ffbp.files import writing


def read(data_dir: Path) -> tuple[Labelled, Labelled, list[str]]:
    """Read the 50,000 training and 10,000 test images, 3 x 32 x 32, and the names of the ten classes.

    torchvision compares every file with its checksum before it unpickles it.

    Raises:
        DataError: if a file is missing or damaged.
    """
    folder = data_dir / str(datasets.CIFAR10.base_folder)
    try:
        parts = [datasets.CIFAR10(data_dir, train=train) for train in (True, False)]
    except Exception as error:  # a damaged pickle may end in any way
        raise DataError(
            f"{folder}: CIFAR-10 is missing or damaged ({error}). Remove what is left of it and allow "
            f"data.download=true, set paths.data_dir or FFBP_DATA_DIR, or use data=digits, which needs no download."
        ) from error
    training, test = (
        Labelled(torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in parts
    )
    return training, test, [str(name) for name in parts[0].classes]


def download(data_dir: Path) -> None:
    """Fetch the archive, unless its folder is there, and have torchvision unpack it.

    Raises:
        DataError: if the server does not send it, or it cannot be unpacked.
        ResourceError: if the folder cannot be written.
    """
    known = datasets.CIFAR10
    if (data_dir / str(known.base_folder)).exists():
        return
    archive = data_dir / str(known.filename)
    if not archive.is_file():
        _download_file([known.url.removesuffix(archive.name)], archive, known.tgz_md5)
    with writing(archive):
        try:
            known(data_dir, download=True)
        except (RuntimeError, EOFError, ValueError) as error:
            raise DataError(f"{archive}: cannot be unpacked ({error}); remove it.") from error
