"""Picture files as arrays: upright, opaque, of eight bits, grey or in colours."""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM", "WEBP")
MOST_PIXELS = 50_000_000


def is_hidden(name: str) -> bool:
    """Whether a file or folder is there for a program's own purposes, such as .DS_Store."""
    return name.startswith(".") or name == "__MACOSX"


def picture_files(folder: Path) -> tuple[list[Path], int]:
    """The picture files below a folder, at any depth, in the order of their names, and how many others were left out.

    Links to files are followed, links to folders are not. A hidden folder counts as one file. An OSError if a folder
    cannot be listed.
    """

    def raise_it(error: OSError) -> None:
        raise error

    files, others = [], 0
    for parent, folders, names in os.walk(folder, onerror=raise_it):
        hidden = [name for name in folders if is_hidden(name) or Path(parent, name).is_symlink()]
        folders[:] = [name for name in folders if name not in hidden]
        found = [path for path in (Path(parent, name) for name in names) if is_picture(path)]
        files += found
        others += len(hidden) + len(names) - len(found)
    return sorted(files), others


def is_picture(path: Path) -> bool:
    """Whether a path is a file that looks like a picture by its name, and is not hidden."""
    return path.suffix.lower() in SUFFIXES and not is_hidden(path.name) and path.is_file()


def decode(
    content: bytes, size: Sequence[int] | None = None, channels: Literal[1, 3] | None = None
) -> NDArray[np.uint8]:
    """Decode a picture file.

    It is turned upright as its EXIF says, and of several pictures in a file the first is taken. Sixteen bits are
    scaled to eight. What is transparent becomes white, or black where nothing would show on white.

    Args:
        content: of the file.
        size: height and width to scale to, whatever the picture's own proportions; None for as it is.
        channels: 1 for grey, 3 for colours; None for colours if there are any.

    Returns:
        bytes, shape (H, W) if grey, (H, W, 3) in colours.

    Raises:
        Exception: of any kind, as damaged files may end Pillow's readers.
    """
    image = _opaque(upright(content))
    if channels is not None or image.mode not in ("L", "RGB"):
        grey = channels == 1 or (channels is None and image.mode in ("1", "LA", "La"))
        image = image.convert("L" if grey else "RGB")
    if size is not None and (image.height, image.width) != tuple(size):
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    if channels is None and pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]  # grey, though it was saved in colours
    return pixels


def upright(content: bytes) -> Image.Image:
    """The first picture of a file, turned as its EXIF says, of eight bits in any of Pillow's modes."""
    with warnings.catch_warnings(action="ignore"):
        try:
            opened = Image.open(io.BytesIO(content), formats=FORMATS)
        except UnidentifiedImageError as error:
            raise ValueError(f"none of the formats {', '.join(FORMATS)}") from error
        with opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError(f"{opened.width} x {opened.height} pixels, and at most {MOST_PIXELS} are read")
            transparent = opened.info.get("transparency")
            image = ImageOps.exif_transpose(opened)
            image.load()
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        image = Image.fromarray(_eight_bits(values))
        if isinstance(transparent, int) and (clear := values == transparent).any():
            image.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return image


def _opaque(image: Image.Image) -> Image.Image:
    """A picture without transparency: on white, or on black where nothing would show on white."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    on_white, on_black = (
        Image.alpha_composite(Image.new("RGBA", image.size, paper), image).convert("RGB")
        for paper in ("white", "black")
    )
    return on_white if len(on_white.getcolors(2) or "many") > 1 else on_black


def _eight_bits(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Grey values of 16 bits, or floats in [0, 1], as 8 bits; a ValueError for what is neither."""
    numbers = values.astype(np.float64)
    most = 1.0 if values.dtype.kind == "f" else 65535.0
    if not (numbers.min() >= 0 and numbers.max() <= most):
        raise ValueError(f"grey values of 0 to {most:g} expected, {numbers.min():g} to {numbers.max():g} found")
    return np.rint(numbers * (255 / most)).astype(np.uint8)
