"""Data sets of one's own images: a folder of files, or a file of arrays."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ffbp.data.arrays import read_npz
from ffbp.data.datamodule import MemoryData, hold_out
from ffbp.data.folders import OwnImages, read_folder
from ffbp.errors import ConfigError, DataError
from ffbp.settings import Count, Share, checked

Size = Count | Annotated[list[Count], Field(min_length=2, max_length=2)]


class OwnImageData(MemoryData):
    """Images of one's own, whose fingerprint a run keeps in place of where they lie."""

    def __init__(self, images: OwnImages, **settings: Any) -> None:
        assert images.test is not None
        super().__init__(images.training, images.test, **settings)
        self.class_names, self.fingerprint, self.left_out = images.class_names, images.fingerprint, images.left_out


class FolderData(OwnImageData):
    """Images in folders, see `read_folder`.

    Args:
        path: the folder.
        size: height and width, or one number for both, to scale all images to; None if they are of one size.
        channels: 1 for grey, 3 for colours; None for colours if any image has some.
        test_size: where there are no train and test folders, the share of the images, or their number, that is held
            out for the test; which ones never changes.
        settings: those of `MemoryData`.

    Raises:
        ConfigError: if no path is given, or a size does not fit the images.
        DataError: if the images cannot be read or divided.
    """

    @checked
    def __init__(
        self,
        *,
        path: str | None,
        size: Size | None,
        channels: Literal[1, 3] | None,
        test_size: Count | Share,
        **settings: Any,
    ) -> None:
        if path is None:
            raise ConfigError("data.path: the folder of the images expected: data=folder data.path=<folder>.")
        height_and_width = [size, size] if isinstance(size, int) else size
        images = read_folder(Path(path).expanduser(), height_and_width, channels)
        super().__init__(images if images.test is not None else _with_test(path, images, test_size), **settings)


class NpzData(OwnImageData):
    """Images in an .npz file of arrays, see `read_npz`.

    Args:
        path: the file.
        settings: those of `MemoryData`.

    Raises:
        ConfigError: if no path is given, or a size does not fit the images.
        DataError: if the arrays cannot be read.
    """

    @checked
    def __init__(self, *, path: str | None, **settings: Any) -> None:
        if path is None:
            raise ConfigError("data.path: the file of the arrays expected: data=npz data.path=<file>.")
        super().__init__(read_npz(Path(path).expanduser()), **settings)


def _with_test(path: str, images: OwnImages, test_size: int | float) -> OwnImages:
    """Hold out a stratified part for the test."""
    counts = images.training.labels.bincount()
    if counts.min() < 2:
        name = images.class_names[int(counts.argmin())]
        raise DataError(f"data.path={path}: one image of class {name}; two or more expected, one of them for the test.")
    training, test = hold_out(images.training, test_size, split_seed=0, setting="data.test_size")
    lost = (training.labels.bincount(minlength=len(counts)) == 0).nonzero().flatten().tolist()
    if lost:
        name = images.class_names[lost[0]]
        raise ConfigError(
            f"data.test_size={test_size}: leaves no training image of class {name}; a smaller one expected."
        )
    return images._replace(training=training, test=test)
