"""Pictures for TensorBoard, drawn with NumPy and Pillow in a few milliseconds each.

Every function returns an image as an array of shape (height, width, 3), uint8.
"""

import io
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

Picture = NDArray[np.uint8]

WHITE, INK, FAINT, LINE = (255, 255, 255), (33, 37, 41), (120, 126, 133), (222, 226, 230)
BLUE, ORANGE, RED = (31, 105, 190), (226, 112, 22), (200, 40, 45)
MARGIN = 14  # pixels around a picture


class Spread(NamedTuple):
    """How the goodness of a layer is distributed after an epoch; histograms over the same bins."""

    epoch: int  # 0: before the training
    low: float  # of the first bin
    high: float  # of the last bin
    positive: list[float]  # shares of the positives, one for each bin
    negative: list[float]  # of the negatives


@cache
def font(size: int) -> Any:
    """Pillow's own typeface."""
    return ImageFont.load_default(size)


def spreads_picture(title: str, rows: Sequence[Spread], threshold: float, names: tuple[str, str]) -> Picture:
    """Draw the histograms of positive and negative goodness, an epoch below the other, on one axis.

    Args:
        title: what layer it is.
        rows: first to last.
        threshold: a line in all rows.
        names: of the threshold, and of the axis.
    """
    left, top, height, width = 86, 62, 58, 540  # height and width of a row
    start, end = _ends(rows, threshold)
    scale = width / (end - start)  # pixels for a goodness of 1
    canvas = np.full((top + height * len(rows) + 44, left + width + MARGIN, 3), 255.0)
    places = start + (np.arange(width) + 0.5) / scale  # the goodness of each column of pixels
    column = left + round((threshold - start) * scale)
    canvas[top - 4 : -40, column - 1 : column + 1] = INK
    for number, row in enumerate(rows):
        base = top + height * (number + 1)
        canvas[base, left:] = LINE
        middle, half = (row.high + row.low) / 2, max((row.high - row.low) / 2, 3 / scale)  # wide enough to be seen
        bins = np.linspace(middle - half, middle + half, len(row.positive) + 1)
        middles = (bins[1:] + bins[:-1]) / 2
        curves = [
            np.interp(places, middles, share, left=0.0, right=0.0)
            for share in (np.asarray(row.negative), np.asarray(row.positive))
        ]
        tallest = max(max(curve.max() for curve in curves), 1e-9)
        above = np.arange(height - 6, 0, -1)[:, None] - 0.5  # (height - 6, 1), pixels above the base
        for curve, color in zip(curves, (ORANGE, BLUE), strict=True):
            inside = np.clip(curve / tallest * (height - 8) - above + 0.5, 0, 1)[..., None] * 0.62
            part = canvas[base - (height - 6) : base, left : left + width]
            part[:] = part * (1 - inside) + np.asarray(color) * inside
    picture = Image.fromarray(canvas.round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 10), title, fill=INK, font=font(16))
    x = MARGIN
    for word, color in (("positive", BLUE), ("negative", ORANGE), (names[0], INK)):
        draw.rectangle((x, 39, x + 10, 49), fill=color)
        draw.text((x + 16, 44), word, fill=INK, font=font(13), anchor="lm")
        x += 34 + round(draw.textlength(word, font=font(13)))
    for number, row in enumerate(rows):
        name = f"epoch {row.epoch}" if row.epoch else "untrained"
        draw.text((left - 10, top + height * (number + 1) - 10), name, fill=INK, font=font(13), anchor="rs")
    bottom = top + height * len(rows)
    for tick in _ticks(start, end):
        x = left + round((tick - start) * scale)
        draw.line((x, bottom, x, bottom + 4), fill=FAINT)
        draw.text((x, bottom + 7), f"{tick:g}", fill=FAINT, font=font(12), anchor="mt")
    draw.text((left + width, bottom + 24), names[1], fill=FAINT, font=font(12), anchor="rt")
    return np.asarray(picture)


def _ends(rows: Sequence[Spread], threshold: float) -> tuple[float, float]:
    """Where the axis begins, at 0 or below, and ends: it shows the threshold, and nearly all of every row."""
    lowest, highest = min(0.0, threshold), max(threshold, 1e-9)
    for row in rows:
        shares = np.asarray([row.positive, row.negative])  # (2, bins)
        seen = np.cumsum(shares, 1) / shares.sum(1, keepdims=True)
        first, last = int((seen < 0.005).sum(1).min()), int((seen < 0.995).sum(1).max()) + 1
        bins = np.linspace(row.low, row.high, shares.shape[1] + 1)
        lowest, highest = min(lowest, float(bins[first])), max(highest, float(bins[min(last, shares.shape[1])]))
    return lowest * 1.06, highest * 1.06


def _ticks(start: float, end: float) -> NDArray[np.float64]:
    """About five round numbers, 0 among them."""
    unit = 10 ** np.floor(np.log10((end - start) / 5))
    step = next(step for step in (unit, 2 * unit, 5 * unit, 10 * unit) if (end - start) / step <= 7)
    ticks: NDArray[np.float64] = np.arange(np.ceil(start / step), np.floor(end / step) + 1) * step
    return ticks


def tiles(title: str, images: Tensor, captions: Sequence[str], *, columns: int, rows: Sequence[str] = ()) -> Picture:
    """Draw images side by side, each above its caption.

    Args:
        title: above all.
        images: shape (N, C, H, W), floats in [0, 1], C 1 or 3.
        captions: one for each image, of one or two lines.
        columns: images in a line.
        rows: a name for each line of images, to its left.
    """
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    left = MARGIN + max([0, *(round(font(13).getlength(name)) + 12 for name in rows)])
    times = max(1, round(84 / images.shape[3]))  # a whole number, so that all pixels are of a size
    tall, side = times * images.shape[2], times * images.shape[3]
    across, down = side + 10, tall + 12 + 15 * lines
    height = 44 + down * -(-len(images) // columns) + 4
    width = max(left + across * columns + MARGIN, 2 * MARGIN + round(font(16).getlength(title)))
    picture = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 10), title, fill=INK, font=font(16))
    for number, (pixels, caption) in enumerate(zip(as_pixels(images), captions, strict=True)):
        row, column = divmod(number, columns)
        x, y = left + across * column, 44 + down * row
        image = Image.fromarray(pixels).resize((side, tall), Image.Resampling.NEAREST)
        picture.paste(image, (x, y))
        draw.multiline_text((x + side // 2, y + tall + 3), caption, INK, font(12), "ma", 2, "center")
    for row, name in enumerate(rows):
        draw.text((MARGIN, 44 + down * row + tall // 2), name, fill=INK, font=font(13), anchor="lm")
    return np.asarray(picture)


def as_pixels(images: Tensor) -> Picture:
    """Images (N, C, H, W), floats in [0, 1], C 1 or 3, as bytes (N, H, W, 3)."""
    colors = images.float().cpu().nan_to_num().clamp(0, 1).mul(255).round().byte()
    return colors.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def heat_map(
    title: str,
    shares: NDArray[np.float64],
    words: Sequence[Sequence[str]],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    heads: tuple[str, str],
    diagonal: bool = False,
    marked: int | None = None,
    image: Tensor | None = None,
) -> Picture:
    """Draw a table whose cells are coloured by how large they are.

    Args:
        title: above it.
        shares: shape (rows, columns), floats in [0, 1].
        words: what stands in each cell.
        rows, columns: their names.
        heads: what the rows are, and what the columns are.
        diagonal: colour what is off the diagonal red.
        marked: a column that gets a frame.
        image: shape (1, C, H, W), floats in [0, 1], drawn to the left.
    """
    count = max(len(rows), len(columns))
    wide = max([30, *(round(font(12).getlength(word)) + 10 for line in words for word in line)])
    cell_w, cell_h = (wide, 30) if count <= 20 else (8, 8)
    beside = 112 if image is not None else 0
    left = MARGIN + beside + max([24, *(round(font(13).getlength(name)) + 12 for name in rows)])
    top = 84
    size = (left + cell_w * len(columns) + MARGIN, top + cell_h * len(rows) + MARGIN)
    size = (max(size[0], 2 * MARGIN + round(font(16).getlength(title))), max(size[1], top + beside))
    picture = Image.new("RGB", size, WHITE)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 10), title, fill=INK, font=font(16))
    draw.text((left, 40), heads[1], fill=FAINT, font=font(12))
    draw.text((left - 10, top - 6), heads[0], fill=FAINT, font=font(12), anchor="rs")
    if image is not None:
        picture.paste(Image.fromarray(as_pixels(image)[0]).resize((100, 100), Image.Resampling.NEAREST), (MARGIN, top))
    shades = np.clip(shares, 0, 1) ** 0.6  # small ones can be told from none
    kind = np.eye(*shades.shape)[..., None] if diagonal else 1  # 1 for blue, 0 for red
    inks = np.asarray(RED) + kind * (np.asarray(BLUE) - np.asarray(RED))
    fills = (255 - shades[..., None] * (255 - inks)).astype(int).tolist()  # (rows, columns, 3)
    for i, row in enumerate(rows):
        if count <= 20:
            draw.text((left - 10, top + cell_h * (i + 0.5)), row, fill=INK, font=font(13), anchor="rm")
        for j in range(len(columns)):
            x, y = left + cell_w * j, top + cell_h * i
            draw.rectangle((x, y, x + cell_w - 2, y + cell_h - 2), fill=tuple(fills[i][j]))
            if count <= 20 and words[i][j]:
                ink = WHITE if shades[i, j] > 0.62 else INK
                draw.text((x + cell_w / 2 - 1, y + cell_h / 2 - 1), words[i][j], fill=ink, font=font(12), anchor="mm")
    for j, column in enumerate(columns if count <= 20 else ()):
        draw.text((left + cell_w * (j + 0.5), top - 6), column, fill=INK, font=font(13), anchor="ms")
    if marked is not None:
        x = left + cell_w * marked
        draw.rectangle((x - 2, top - 2, x + cell_w - 1, top + cell_h * len(rows) - 1), outline=INK, width=2)
    return np.asarray(picture)


def as_png(picture: Picture) -> bytes:
    """Compress quickly; a picture that is grey takes one channel."""
    grey = bool((picture[..., 0] == picture[..., 1]).all() and (picture[..., 0] == picture[..., 2]).all())
    file = io.BytesIO()
    Image.fromarray(picture[..., 0] if grey else picture).save(file, "PNG", compress_level=2)
    return file.getvalue()


def enlarged(grid: Tensor) -> Picture:
    """A grid (3, height, width) of small pictures, floats in [0, 1], enlarged by a whole number to about 600 pixels."""
    times = max(1, min(8, 600 // grid.shape[2]))
    pixels: Picture = as_pixels(grid.unsqueeze(0))[0]
    return pixels.repeat(times, 0).repeat(times, 1)
