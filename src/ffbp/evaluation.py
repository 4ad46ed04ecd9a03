"""What a trained model says of the test images, or of a user's own."""

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ffbp.algorithms import Algorithm
from ffbp.build import build
from ffbp.data import ImageData
from ffbp.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")


def test_metrics(model: Algorithm, data_dir: str) -> dict[str, float]:
    """Test a loaded model on the data set it was trained for: test/loss, test/acc and so on.

    Args:
        model: as `ffbp.load` gives it.
        data_dir: where downloadable sets are.
    """
    settings = model.settings
    data: ImageData = build("data", settings["data"] | {"data_dir": data_dir}, seed=settings["seed"])
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    [metrics] = trainer.test(model, data, verbose=False)
    return dict(metrics)


def read_images(paths: Sequence[Path], shape: Sequence[int], invert: bool) -> tuple[list[Path], Tensor]:
    """Read image files, grey and scaled to what a model takes.

    Args:
        paths: files, or folders whose image files are meant.
        shape: channels, height and width; one channel.
        invert: swap black and white.

    Returns:
        the files, and uint8 images of shape (N, 1, H, W).

    Raises:
        DataError: if a file cannot be read as an image, or there are none.
    """
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    files = [file for file in files if file in paths or file.suffix.lower() in SUFFIXES]
    if not files:
        raise DataError(f"{', '.join(map(str, paths))}: no images there ({', '.join(SUFFIXES)}).")
    return files, torch.stack([_read_image(file, shape, invert) for file in files])


def _read_image(file: Path, shape: Sequence[int], invert: bool) -> Tensor:
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L").resize((shape[2], shape[1]), Image.Resampling.BILINEAR))
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: cannot be read as an image ({error}).") from error
    grey = torch.from_numpy(pixels.copy()).unsqueeze(0)  # (1, H, W)
    return 255 - grey if invert else grey
