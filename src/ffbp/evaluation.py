"""Testing a trained model, and reading image files for it to classify."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ffbp.algorithms import Algorithm
from ffbp.build import build
from ffbp.errors import DataError
from ffbp.lifecycle.trainer import evaluation_trainer

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")


def test_metrics(model: Algorithm, data_dir: str) -> dict[str, float]:
    """Measure test/loss, test/acc and so on of a loaded model; `data_dir` contains the downloadable data sets."""
    settings = model.settings["data"]
    if "data_dir" in settings:
        settings = settings | {"data_dir": data_dir}
    data = build("data", settings, seed=model.settings["seed"])
    [metrics] = evaluation_trainer(next(model.parameters()).dtype).test(model, data, verbose=False)
    return dict(metrics)


def read_images(paths: Sequence[Path], shape: Sequence[int], invert: bool) -> tuple[list[Path], Tensor]:
    """Read image files, or folders of them, convert them to grey and scale them to `shape`, one channel.

    Returns the files, and uint8 images of shape (N, 1, H, W), black and white swapped if `invert`.

    Raises:
        DataError: if a file cannot be read as an image, or there are none.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{', '.join(map(str, paths))}: no images found ({', '.join(SUFFIXES)}).")
    images = torch.empty(len(files), 1, *shape[1:], dtype=torch.uint8)
    for number, file in enumerate(files):
        try:
            with Image.open(file) as image:
                pixels = np.array(image.convert("L").resize((shape[2], shape[1]), Image.Resampling.BILINEAR))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataError(f"{file}: cannot be read as an image ({error}).") from error
        images[number, 0] = torch.from_numpy(pixels)
    return files, 255 - images if invert else images
