"""Testing a trained model, and what it sees in pictures of one's own."""

import os
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ffbp.algorithms import Algorithm
from ffbp.build import build
from ffbp.data.drawings import Frame, as_drawn, on_paper
from ffbp.data.pictures import SUFFIXES, decode, is_picture, upright
from ffbp.data.sources import FRAMES, IDX_SETS
from ffbp.errors import CheckpointError, ConfigError, DataError, one_line
from ffbp.files import writing
from ffbp.lifecycle.places import OTHER_IMAGES, folder_of_data, has_own_images, place_of_images
from ffbp.lifecycle.trainer import evaluation_trainer
from ffbp.settings import Settings

MODES = {1: "L", 3: "RGB"}
"""Pillow's name for images of so many channels."""
WRITER = ("Software", "ffbp evaluate")
"""A line in the pictures that `save_images` writes, by which it knows its own."""


def test_metrics(model: Algorithm, data_dir: str, run: Path, path: str) -> dict[str, float]:
    """Measure test/loss, test/acc and so on of a loaded model.

    Args:
        model: what to measure.
        data_dir: contains the downloadable data sets; empty for where the run says, or FFBP_DATA_DIR.
        run: where the model was loaded from.
        path: where its images are, if they are one's own; empty for where the run says.

    Raises:
        CheckpointError: if there are other images than those that the model was trained on.
        DataError: if the images cannot be read.
    """
    settings = model.settings["data"]
    if "data_dir" in settings:
        named = "" if data_dir else folder_of_data(run)
        here = os.environ.get("FFBP_DATA_DIR", "data")
        settings = settings | {"data_dir": data_dir or named or here}
        if named and "download" in settings:  # a folder that a saved run names is read, and not written
            settings = settings | {"download": False}
    if has_own_images(settings):
        settings = settings | {"path": path or place_of_images(run)}
    data = build("data", settings, seed=model.settings["seed"])
    if data.fingerprint != model.settings.get("images_sha256"):
        raise CheckpointError(f"{run}: {OTHER_IMAGES}")
    [metrics] = evaluation_trainer(next(model.parameters()).dtype).test(model, data, verbose=False)
    return dict(metrics)


class Pictures(NamedTuple):
    """Picture files that could be read, as a model takes them."""

    files: list[Path]
    images: Tensor  # (N, C, H, W), uint8
    blank: list[bool]  # where nothing is drawn
    skipped: list[str]  # for each file that could not be read, a line that says why


def frame_of(settings: Settings) -> Frame | None:
    """How the data set of a run places its digits, None if it does not show digits."""
    source = settings["data"].get("source")
    return FRAMES.get(source) if isinstance(source, str) else None


def class_names(settings: Settings) -> list[str]:
    """What the classes of a run's data set are called: numbers, unless it is one whose classes have names."""
    source = settings["data"].get("source")
    if source in IDX_SETS and source not in FRAMES:
        return list(IDX_SETS[source].classes)
    named = settings.get("class_names") or []
    return [one_line(name, 60) for name in named] or [str(label) for label in range(settings["classes"])]


def read_images(
    paths: Sequence[Path],
    shape: Sequence[int],
    invert: bool | None = None,
    frame: Frame | None = None,
    *,
    own: bool = False,
) -> Pictures:
    """Read pictures: files, the pictures in folders, and patterns such as scans/*.png.

    A picture is turned upright as its EXIF says, and of several in a file the first is taken. Sixteen bits are scaled
    to eight.

    Args:
        paths: what exists under its name is taken as such, be it [x] or *.
        shape: channels, height and width of the model's images; grey or in colours.
        invert: whether pictures are dark on bright; None to find out for digits, and for False otherwise.
        frame: how the data set places its digits, see `drawings`. None: pictures are only scaled, swapped in black and
            white if `invert`, and what is transparent becomes the background, black, or white if `invert`.
        own: as the files of a folder are read in training, see `decode`.

    Raises:
        DataError: if no file can be read as a picture.
    """
    channels, height, width = shape
    if channels not in MODES:
        raise DataError(f"images= are grey or coloured, and this model takes {channels} channels.")
    files, images, blank, skipped = [], [], [], []
    for file in _files(paths):
        try:
            content = _content(file)
            drawn: NDArray[np.uint8] | None
            if frame is not None:
                drawn = as_drawn(on_paper(upright(content)), frame, invert)
            elif own:
                drawn = decode(content, (height, width), 1 if channels == 1 else 3)
            else:
                drawn = _scaled(upright(content), (width, height), MODES[channels], bool(invert))
            if drawn is not None and drawn.min() == drawn.max():
                drawn = None
        except Exception as error:  # a damaged file may end a reader in any way
            skipped.append(f"{file}: cannot be read as an image ({error})")
            continue
        files.append(file)
        blank.append(drawn is None)
        pixels = np.zeros((height, width), dtype=np.uint8) if drawn is None else drawn
        images.append(torch.from_numpy(pixels.copy()).view(height, width, -1).permute(2, 0, 1).expand(*shape))
    if not files:
        raise DataError(skipped[0] + "." if len(skipped) == 1 else f"none of {len(skipped)} pictures; {skipped[0]}.")
    return Pictures(files, torch.stack(images), blank, skipped)


def _files(paths: Sequence[Path]) -> list[Path]:
    """The files that paths name; a DataError if a folder or a pattern has no pictures."""
    found: list[Path] = []
    for path in paths:
        try:
            if path.is_dir():
                of_path = sorted(filter(is_picture, path.iterdir()))
            elif not path.exists() and has_magic(str(path)):
                names = sorted(glob(str(path), recursive=True))  # noqa: PTH207 - Path.glob takes no absolute patterns
                of_path = [Path(name) for name in names if not Path(name).is_dir()]
            else:
                of_path = [path]
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}).") from error
        if not of_path:
            raise DataError(f"{path}: no images found ({', '.join(SUFFIXES)}).")
        found += of_path
    return found


def _content(file: Path) -> bytes:
    if file.exists() and not file.is_file():
        raise ValueError("not an ordinary file")
    return file.read_bytes()


def _scaled(image: Image.Image, size: tuple[int, int], mode: str, invert: bool) -> NDArray[np.uint8]:
    """A picture without transparency, of another size: (H, W) or (H, W, 3)."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        background = "white" if invert else "black"
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image).convert("RGB")
        if len(set(image.convert("L").getextrema())) == 1:
            raise ValueError(f"transparent, and nothing shows on {background}; try the other invert=")
    pixels = np.asarray(image.convert(mode).resize(size, Image.Resampling.BILINEAR))
    return 255 - pixels if invert else pixels


def save_images(pictures: Pictures, folder: Path) -> None:
    """Write what a model sees of each picture as <folder>/<name>.png; a ConfigError if another's file lies there."""
    taken: set[Path] = set()
    for file, image in zip(pictures.files, pictures.images, strict=True):
        path, number = folder / f"{file.stem}.png", 1
        while path in taken:
            number += 1
            path = folder / f"{file.stem}_{number}.png"
        taken.add(path)
        if path.is_symlink() or (path.exists() and not _is_ours(path)):
            raise ConfigError(f"{path}: was not written by evaluate; choose another save=.")
        info = PngInfo()
        info.add_text(*WRITER)
        with writing(path):
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy()).save(path, pnginfo=info)


def _is_ours(path: Path) -> bool:
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.info.get(WRITER[0]) == WRITER[1]
    except (OSError, ValueError, SyntaxError):
        return False


def answers(model: Algorithm, pictures: Pictures, with_goodness: bool) -> Iterator[str]:
    """For each picture, a line with its class, the score and the next two; and a table of goodness if it is wanted.

    The score is the share of the softmax over the answer's logits, or the goodness itself where that is the answer.
    """
    names, by_goodness = class_names(model.settings), model.readout == "goodness"
    goodness = model.goodness_by_layer(pictures.images).tolist() if with_goodness else []  # (N, layers, classes)
    scores = model(pictures.images) if by_goodness else model.probabilities(pictures.images)
    best, order = scores.topk(min(3, len(names)))  # (N, 3)
    for number, file in enumerate(pictures.files):
        if pictures.blank[number]:
            yield f"{one_line(file)}\tblank"
            continue
        values = [f"{value:.3f}" if by_goodness else f"{100 * value:.1f} %" for value in best[number].tolist()]
        first, *others = [names[label] for label in order[number].tolist()]
        rest = ", ".join(f"{name} {value}" for name, value in zip(others, values[1:], strict=True))
        yield f"{one_line(file)}\t{first}\t{values[0]}\tthen {rest}"
        if with_goodness:
            yield "  goodness" + "".join(f"{name:>9.9}" for name in names)
            for layer, row in enumerate(goodness[number]):
                yield f"  layer {layer:<2}" + "".join(f"{value:>9.3f}" for value in row)
