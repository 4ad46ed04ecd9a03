"""A picture of a digit becomes an image like those of a data set of digits. demo/drawing.js takes the same steps.

1. Paper: a smooth surface, quadratic in x and y, fitted to the colours by robust least squares, starting from the
   border; so the shading of a photo is part of it.
2. Ink: how far each pixel lies from the paper, along the direction in which most of the ink does. That finds the
   polarity, and works for blue on yellow. Noise is cut off, and the ink's own strength becomes 1.
3. Cut out: specks and what comes in from the border are dropped, and the rest is looked at again from closer.
4. Stroke: strokes thinner or thicker than those that people write are brought to the nearest width that they do.
5. Frame: scaled, keeping the aspect, and placed in the image as the data set does: see `Frame`.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import grey_dilation, grey_erosion, label  # type: ignore[import-untyped]

Grey = NDArray[np.float64]

FAR, CLOSE = 200, 120  # pixels of the longer side at the first look, and at the second
SAMPLES = 60  # points of the longer side to which the paper is fitted
LARGEST = 1600  # pixels of the longer side of a picture, from twice that on it is reduced
MARGIN = 0.3  # around the ink, at the second look, relative to its longer side
FAINTEST, CLEAREST = 0.03, 5.0  # ink is at least so far from the paper, where white is 1, and so many deviations of it
EDGE = 0.1  # the ink's faintest strength that counts
FINE = 4  # parts of a pixel in which strokes are measured
STROKE = (1.7, 3.7)  # pixels of 20: the width of the middle nine tenths of MNIST's strokes


class Frame(NamedTuple):
    """How a data set places its digits."""

    ink: int  # the longer side of a digit, in cells
    cells: int  # the side of an image, in cells
    enlarged: int = 1  # pixels of a cell's side in the end
    border: int = 0  # pixels around them
    by_mass: bool = True  # whether the centre of mass is in the middle, or else that of the box


def as_drawn(picture: Image.Image, frame: Frame, invert: bool | None = None) -> NDArray[np.uint8] | None:
    """Find the digit in a picture and place it in an image as a data set does.

    Args:
        picture: of any mode that `opaque` returns, at least one pixel.
        frame: how the data set places its digits.
        invert: True if the ink is darker than the paper, False if it is brighter, None to find out.

    Returns:
        white on black, shape (S, S); None if nothing is drawn.
    """
    whole = (0.0, 0.0, float(picture.width), float(picture.height))
    found = _find(picture, whole, FAR, invert)
    if found is None:
        return None
    box = found[1]
    margin = MARGIN * max(box[2] - box[0], box[3] - box[1])
    left, top, right, bottom = box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin
    closer = (max(left, 0.0), max(top, 0.0), min(right, whole[2]), min(bottom, whole[3]))
    found = _find(picture, closer, CLOSE, invert) or found
    return _place(_written(found[0]), frame)


def on_paper(picture: Image.Image) -> Image.Image:
    """A picture in colours without transparency: what is transparent becomes paper.

    If most of the picture is transparent, the rest is ink, and the paper has the opposite brightness; if not, the paper
    has the middle colour of what can be seen.
    """
    if not picture.has_transparency_data:
        return _limited(picture.convert("RGB"))
    picture = _limited(picture.convert("RGBA"))
    pixels = np.asarray(picture, dtype=np.float64).reshape(-1, 4)
    opacity = pixels[:, 3] / 255
    if opacity.mean() > 0.5:
        paper = np.median(pixels[opacity > 0.5, :3], axis=0)
    else:
        grey = float(pixels[:, :3].mean(1) @ opacity) / max(float(opacity.sum()), 1e-9)
        paper = np.full(3, 255.0 if grey < 128 else 0.0)
    colours = paper + (pixels[:, :3] - paper) * opacity[:, None]
    return Image.fromarray(np.floor(colours + 0.5).astype(np.uint8).reshape(picture.height, picture.width, 3))


def _limited(picture: Image.Image) -> Image.Image:
    """A picture whose longer side has less than twice `LARGEST` pixels."""
    return picture.reduce(max(1, max(picture.size) // LARGEST))


def _find(
    picture: Image.Image, part: tuple[float, float, float, float], longest: int, invert: bool | None
) -> tuple[Grey, tuple[float, float, float, float]] | None:
    """The ink in a part of a picture, cut out, and its box in the picture: left, top, right, bottom."""
    width, height = part[2] - part[0], part[3] - part[1]
    scale = min(1.0, longest / max(width, height))
    size = max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5))
    small = np.asarray(picture.resize(size, Image.Resampling.BILINEAR, box=part), dtype=np.float64) / 255  # (H, W, 3)
    ink = ink_of(small, invert)
    if ink is None:
        return None
    ink = _one_drawing(ink)
    top, bottom, left, right = _box(ink)
    x, y = width / size[0], height / size[1]
    box = (part[0] + left * x, part[1] + top * y, part[0] + right * x, part[1] + bottom * y)
    return ink[top:bottom, left:right], box


def paper_of(picture: Grey) -> Grey:
    """The colours that a picture (H, W, 3) would have without ink: a quadratic surface, shape (H, W, 3)."""
    height, width = picture.shape[:2]
    y, x = np.meshgrid(_along(height), _along(width), indexing="ij")
    all_terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)  # (H, W, 6)
    # a smooth surface needs no more points
    step = min(-(-max(height, width) // SAMPLES), max(1, min(height, width) // 10))
    every = (slice(step // 2, None, step),) * 2
    terms, colours = all_terms[every].reshape(-1, 6), picture[every].reshape(-1, 3)  # (N, 6), (N, 3)
    outward = np.abs(terms[:, 1:3]).max(1)
    border = outward >= min(0.9, float(outward.max()))
    surface = np.broadcast_to(np.median(colours[border], axis=0), colours.shape)
    for _ in range(10):
        away = np.abs(colours - surface).max(1)  # (N,)
        scale = min(max(1.5 * float(np.median(away[border])), 0.02), 0.2)
        weights = 1 / (1 + (away / scale) ** 2) ** 2
        weighted = terms * weights[:, None]
        normal = terms.T @ weighted + 1e-6 * weights.sum() * np.eye(6)
        coefficients = np.linalg.solve(normal, weighted.T @ colours)  # (6, 3)
        surface = terms @ coefficients
    paper: Grey = all_terms @ coefficients
    return paper


def ink_of(picture: Grey, invert: bool | None) -> Grey | None:
    """How much ink lies on each pixel of a picture (H, W, 3): in [0, 1], shape (H, W); None if there is none.

    `invert` is that of `as_drawn`.
    """
    paper = paper_of(picture)
    away = picture - paper
    if invert is None:
        direction = (away * (away * away).sum(2, keepdims=True)).sum((0, 1))
    else:
        direction = np.full(3, -1.0 if invert else 1.0)
    length = float(np.linalg.norm(direction))
    if length < 1e-12:
        return None
    along = away @ (direction / length) / np.sqrt(3)  # (H, W): 1 from black to white
    if direction.sum() < 0:  # light falls on ink and paper alike
        along = along / np.maximum(paper.mean(2), 0.25)
    ink = np.maximum(along, 0)
    inside = ink > _threshold(ink)
    if not inside.any():
        return None
    full = float(np.quantile(ink[inside], 0.8))
    noise = 1.48 * float(np.median(np.abs(along[~inside])))
    if full < max(FAINTEST, CLEAREST * noise):
        return None
    faint = min(3 * noise, full / 2)
    strength: Grey = np.clip((ink - faint) / (full - faint), 0, 1)
    return strength


def _threshold(values: Grey, bins: int = 64) -> float:
    """The value that divides values in [0, ...) into two classes with the least variance within them (Otsu 1979)."""
    most = float(values.max())
    if most <= 0:
        return 0.0
    counts = np.bincount(np.minimum((values / most * bins).astype(int), bins - 1).reshape(-1), minlength=bins)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(bins))
    above, rest = below[-1] - below, sums[-1] - sums
    means = rest / np.maximum(above, 1) - sums / np.maximum(below, 1)
    return (int(np.argmax(below * above * means**2)) + 1) / bins * most


def _one_drawing(ink: Grey) -> Grey:
    """Without specks, and without what touches the border unless hardly anything else is there."""
    parts, count = label(ink > EDGE, structure=np.ones((3, 3)))
    masses = np.bincount(parts.reshape(-1), weights=ink.reshape(-1), minlength=count + 1)[1:]
    if not count:
        return ink
    edges = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    free = ~np.isin(np.arange(1, count + 1), edges)
    if masses[free].max(initial=0) >= 0.2 * masses.max():
        masses = masses * free
    kept = np.flatnonzero(masses >= 0.08 * masses.max()) + 1
    return np.where(np.isin(parts, kept), ink, 0)


def _written(ink: Grey) -> Grey:
    """Ink, cut out, whose strokes are as wide as people write them."""
    unit = 20 * FINE
    fine = _resized(ink, unit)
    solid = np.pad(fine > 0.4, 1)
    edges = int((solid[1:] != solid[:-1]).sum() + (solid[:, 1:] != solid[:, :-1]).sum())
    width = 2 * int(solid.sum()) / max(1.0, edges * np.pi / 4) / FINE  # of a line: twice its area by its outline
    target = min(max(width, STROKE[0]), STROKE[1])
    radius = math.floor((target - width) / 2 * FINE + 0.5)
    if not radius:
        return ink
    reach = abs(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = x * x + y * y <= reach * reach + reach
    changed = (grey_dilation if radius > 0 else grey_erosion)(np.pad(fine, reach + 1), footprint=disc)
    top, bottom, left, right = _box(changed)
    cut: Grey = changed[top:bottom, left:right]
    return cut if changed.max() > 0.5 else ink


def _place(ink: Grey, frame: Frame) -> NDArray[np.uint8]:
    """Scale ink, cut out, to the size that a data set's digits have, and put it where they are."""
    scaled = _resized(ink, frame.ink)
    size = np.array(scaled.shape)
    middle = np.array([np.average(np.arange(n), weights=scaled.sum(1 - axis)) for axis, n in enumerate(size)])
    # MNIST's mass lies at 14.0, counted from the middle of the first pixel
    wanted = frame.cells / 2 - middle if frame.by_mass else (frame.cells - size) / 2
    top, left = np.clip(np.floor(wanted + 0.5).astype(int), 0, frame.cells - size)
    image = np.zeros((frame.cells, frame.cells))
    image[top : top + size[0], left : left + size[1]] = scaled / scaled.max()
    if frame.enlarged > 1:
        rows = resampling(frame.cells, frame.cells * frame.enlarged)
        image = np.pad(rows @ image @ rows.T, frame.border)
    return np.floor(image * 255 + 0.5).astype(np.uint8)


def _resized(image: Grey, longest: int) -> Grey:
    """Scale an image (H, W) so that its longer side has `longest` pixels."""
    scale = longest / max(image.shape)
    rows, columns = (resampling(n, max(1, int(n * scale + 0.5))) for n in image.shape)
    resized: Grey = rows @ image @ columns.T
    return resized


def resampling(old: int, new: int) -> Grey:
    """Weights (new, old) that scale a row of pixels: a triangle as wide as a pixel of the coarser row, on each side."""
    scale = old / new
    support = max(scale, 1.0)
    middles = (np.arange(new) + 0.5) * scale  # (new,)
    weights = np.maximum(0, 1 - np.abs(np.arange(old) + 0.5 - middles[:, None]) / support)  # (new, old)
    normalised: Grey = weights / weights.sum(1, keepdims=True)
    return normalised


def _box(ink: Grey) -> tuple[int, int, int, int]:
    """The smallest box around ink (H, W): first row, row after the last, first column, column after the last."""
    rows, columns = (np.flatnonzero((ink > EDGE).any(axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _along(length: int) -> Grey:
    """The places of so many pixels in a row, in [-1, 1]."""
    return (np.arange(length) + 0.5) * 2 / length - 1
