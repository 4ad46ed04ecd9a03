"""Testing a trained model, and reading image files for it to classify."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from ffbp.algorithms import Algorithm
from ffbp.build import build
from ffbp.errors import CheckpointError, DataError
from ffbp.lifecycle.places import OTHER_IMAGES, has_own_images, place_of_images
from ffbp.lifecycle.trainer import evaluation_trainer

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM", "WEBP")
MODES = {1: "L", 3: "RGB"}
"""Pillow's name for images of so many channels."""
MOST_PIXELS = 50_000_000


def test_metrics(model: Algorithm, data_dir: str, run: Path, path: str) -> dict[str, float]:
    """Measure test/loss, test/acc and so on of a loaded model.

    Args:
        model: what to measure.
        data_dir: contains the downloadable data sets.
        run: where the model was loaded from.
        path: where its images are, if they are one's own; empty for where the run says.

    Raises:
        CheckpointError: if there are other images than those that the model was trained on.
        DataError: if the images cannot be read.
    """
    settings = model.settings["data"]
    if "data_dir" in settings:
        settings = settings | {"data_dir": data_dir}
    if has_own_images(settings):
        settings = settings | {"path": path or place_of_images(run)}
    data = build("data", settings, seed=model.settings["seed"])
    if data.fingerprint != model.settings.get("images_sha256"):
        raise CheckpointError(f"{run}: {OTHER_IMAGES}")
    [metrics] = evaluation_trainer(next(model.parameters()).dtype).test(model, data, verbose=False)
    return dict(metrics)


def read_images(paths: Sequence[Path], shape: Sequence[int], invert: bool) -> tuple[list[Path], Tensor]:
    """Read image files, or folders of them, and scale them to `shape` (channels, height, width), grey or in colours.

    An image is turned upright as its EXIF says, and of several in a file the first is taken. Sixteen bits are scaled
    to eight. What is transparent becomes the background: black, or white if `invert`.

    Returns the files, and uint8 images of shape (N, C, H, W), black and white swapped if `invert`.

    Raises:
        DataError: if a file cannot be read as an image, or there are none.
    """
    files: list[Path] = []
    for path in paths:
        try:
            files += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
    if not files:
        raise DataError(f"{', '.join(map(str, paths))}: no images found ({', '.join(SUFFIXES)}).")
    channels, height, width = shape
    if channels not in MODES:
        raise DataError(f"images= are grey or coloured, and this model takes {channels} channels.")
    images = torch.empty(len(files), *shape, dtype=torch.uint8)
    for number, file in enumerate(files):
        try:
            image = _upright_and_opaque(file, background="white" if invert else "black")
            pixels = np.array(image.convert(MODES[channels]).resize((width, height), Image.Resampling.BILINEAR))
        except Exception as error:  # a damaged file may end a reader in any way
            raise DataError(f"{file}: cannot be read as an image ({error}).") from error
        images[number] = torch.from_numpy(pixels).view(height, width, channels).permute(2, 0, 1)
    return files, 255 - images if invert else images


def _upright_and_opaque(file: Path, background: str) -> Image.Image:
    """An image of eight bits in any of Pillow's modes without transparency."""
    if file.exists() and not file.is_file():
        raise ValueError("not an ordinary file")
    with warnings.catch_warnings(action="ignore"), Image.open(file, formats=FORMATS) as opened:
        if opened.width * opened.height > MOST_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} pixels, and at most {MOST_PIXELS} are read")
        transparent = opened.info.get("transparency")
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        grey = Image.fromarray(_eight_bits(values))
        clear = values == transparent if isinstance(transparent, int) else np.zeros_like(values, dtype=bool)
        grey.paste(background, mask=Image.fromarray(clear))
        return grey
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")
        if len(set(image.convert("L").getextrema())) == 1:
            raise ValueError(f"transparent, and nothing shows on {background}; try the other invert=")
    return image


def _eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey values of 16 bits, or floats in [0, 1], as 8 bits; a ValueError for what is neither."""
    numbers = values.astype(np.float64)
    most = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (numbers.min() >= 0 and numbers.max() <= most):
        raise ValueError(f"grey values of 0 to {most:g} expected, {numbers.min():g} to {numbers.max():g} found")
    return np.rint(numbers * (255 / most)).astype(np.uint8)
