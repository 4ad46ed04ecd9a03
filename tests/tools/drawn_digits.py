"""Pictures of digits as people make them: strokes by hand, in many ways of drawing, photographing and saving.

python tests/tools/drawn_digits.py pictures/    # writes them, named <digit>_<way>_<number>.<suffix>
"""

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Stroke = list[tuple[float, float]]

# each digit's ways of being written: strokes through points (x, y), in a box of height 1, y downwards
SHAPES: dict[int, list[list[Stroke]]] = {
    0: [
        [[(0.35, 0), (0.08, 0.2), (0.02, 0.55), (0.2, 0.95), (0.42, 0.97), (0.62, 0.6), (0.58, 0.2), (0.35, 0)]],
        [[(0.45, 0.02), (0.12, 0.1), (0.0, 0.5), (0.15, 0.92), (0.45, 1), (0.7, 0.75), (0.72, 0.3), (0.42, 0.0)]],
    ],
    1: [[[(0.2, 0), (0.18, 0.5), (0.16, 1)]], [[(0.0, 0.25), (0.25, 0.0)], [(0.25, 0.0), (0.24, 0.5), (0.23, 1)]]],
    2: [
        [[(0.02, 0.2), (0.25, 0.0), (0.55, 0.1), (0.55, 0.4), (0.3, 0.7), (0.0, 1)], [(0.0, 1), (0.35, 0.97), (0.7, 0.98)]],
        [[(0.05, 0.15), (0.35, 0), (0.6, 0.2), (0.45, 0.55), (0.1, 0.9), (0.02, 0.78), (0.3, 0.82), (0.7, 0.97)]],
    ],
    3: [
        [[(0.05, 0.1), (0.35, 0), (0.58, 0.2), (0.45, 0.42), (0.22, 0.47)], [(0.22, 0.47), (0.55, 0.55), (0.6, 0.8), (0.35, 1), (0.0, 0.9)]],
        [[(0.0, 0.05), (0.3, 0.0), (0.5, 0.15), (0.4, 0.4), (0.2, 0.45), (0.5, 0.52), (0.62, 0.75), (0.4, 0.98), (0.02, 0.95)]],
    ],
    4: [
        [[(0.1, 0), (0.05, 0.3), (0.02, 0.52)], [(0.02, 0.52), (0.3, 0.53), (0.62, 0.5)], [(0.55, 0.02), (0.53, 0.5), (0.5, 1)]],
        [[(0.45, 0.0), (0.2, 0.35), (0.0, 0.65)], [(0.0, 0.65), (0.35, 0.65), (0.7, 0.63)], [(0.45, 0.0), (0.45, 0.5), (0.44, 1)]],
    ],
    5: [
        [[(0.6, 0.0), (0.35, 0.01), (0.12, 0.02)], [(0.12, 0.02), (0.09, 0.22), (0.06, 0.42)], [(0.06, 0.42), (0.35, 0.36), (0.6, 0.55), (0.55, 0.85), (0.3, 1), (0.0, 0.92)]],
        [[(0.65, 0.03), (0.4, 0.03), (0.18, 0.05), (0.1, 0.25), (0.12, 0.42), (0.4, 0.45), (0.55, 0.65), (0.42, 0.92), (0.02, 0.97)]],
    ],
    6: [
        [[(0.5, 0.0), (0.22, 0.2), (0.05, 0.55), (0.1, 0.88), (0.35, 1), (0.58, 0.82), (0.5, 0.58), (0.25, 0.55), (0.08, 0.72)]],
        [[(0.35, 0.0), (0.12, 0.3), (0.02, 0.7), (0.2, 0.98), (0.48, 0.92), (0.52, 0.68), (0.3, 0.58), (0.05, 0.72)]],
    ],
    7: [
        [[(0.0, 0.05), (0.3, 0.04), (0.62, 0.02)], [(0.62, 0.02), (0.42, 0.45), (0.22, 1)]],
        [[(0.02, 0.12), (0.05, 0.02), (0.35, 0.03), (0.65, 0.0)], [(0.65, 0.0), (0.45, 0.5), (0.3, 1)], [(0.2, 0.5), (0.4, 0.49), (0.62, 0.48)]],
    ],
    8: [
        [[(0.52, 0.12), (0.3, 0.0), (0.1, 0.15), (0.2, 0.38), (0.45, 0.58), (0.58, 0.82), (0.32, 1), (0.05, 0.85), (0.15, 0.62), (0.45, 0.35), (0.52, 0.12)]],
        [[(0.3, 0.0), (0.1, 0.12), (0.14, 0.35), (0.32, 0.45), (0.52, 0.32), (0.52, 0.1), (0.3, 0.0)], [(0.32, 0.45), (0.08, 0.62), (0.06, 0.88), (0.32, 1), (0.58, 0.86), (0.54, 0.62), (0.32, 0.45)]],
    ],
    9: [
        [[(0.55, 0.15), (0.3, 0.0), (0.08, 0.15), (0.1, 0.4), (0.32, 0.48), (0.52, 0.3), (0.55, 0.15)], [(0.55, 0.15), (0.52, 0.55), (0.46, 1)]],
        [[(0.56, 0.08), (0.25, 0.02), (0.05, 0.25), (0.25, 0.47), (0.52, 0.28), (0.56, 0.08), (0.56, 0.5), (0.45, 0.85), (0.15, 1)]],
    ],
}  # fmt: skip


def written(digit: int, dice: np.random.Generator, wobble: float = 0.02, tilt: float = 0.0) -> list[Stroke]:
    """A digit in a hand of its own, at most 1 high and wide, about (0, 0); `tilt` in degrees."""
    strokes = SHAPES[digit][dice.integers(2)]
    turn = math.radians(tilt + dice.normal(0, 3))
    slant, wide = dice.normal(0.12, 0.12), dice.uniform(0.85, 1.2)
    found = []
    for stroke in strokes:
        points = np.array(stroke) + dice.normal(0, wobble, (len(stroke), 2))
        points = (points - [0.32, 0.5]) * [wide, 1]
        points[:, 0] -= slant * points[:, 1]
        points = points @ [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]]
        found.append([(x, y) for x, y in _smooth(points)])
    return found


def _smooth(points: np.ndarray, steps: int = 12) -> Iterator[tuple[float, float]]:
    """Points of a Catmull-Rom spline through `points` (N, 2)."""
    ends = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        for t in np.linspace(0, 1, steps):
            x, y = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
            yield float(x), float(y)


def mask(
    digit: int,
    dice: np.random.Generator,
    size: tuple[int, int] = (300, 300),
    height: float = 200,
    pen: float = 16,
    at: tuple[float, float] = (0.5, 0.5),
    **hand: float,
) -> np.ndarray:
    """Where the ink of a digit is in a picture of `size` (width, height): (H, W), in [0, 1]."""
    image = Image.new("L", (size[0] * 2, size[1] * 2))
    draw = ImageDraw.Draw(image)
    for stroke in written(digit, dice, **hand):
        points = [(2 * (size[0] * at[0] + height * x), 2 * (size[1] * at[1] + height * y)) for x, y in stroke]
        draw.line(points, fill=255, width=max(1, round(2 * pen)), joint="curve")
        for x, y in points:
            draw.ellipse((x - pen, y - pen, x + pen, y + pen), fill=255)
    return np.asarray(image.resize(size, Image.Resampling.BOX)) / 255


def painted(ink: np.ndarray, pen: tuple[int, ...] = (0, 0, 0), paper: object = (255, 255, 255)) -> Image.Image:
    """Ink (H, W) of one colour on paper, one colour or many (H, W, 3)."""
    paper = np.broadcast_to(np.asarray(paper, dtype=float), (*ink.shape, 3))
    colours = paper + (np.array(pen) - paper) * ink[..., None]
    return Image.fromarray(np.clip(np.rint(colours), 0, 255).astype(np.uint8))


def _photo(
    ink: np.ndarray, light: np.ndarray, dice: np.random.Generator, pen: float = 0.25, noise: float = 4
) -> Image.Image:
    """A photo of a drawing under uneven light (H, W), in [0, 1], a little out of focus, with noise."""
    grey = (0.95 - (0.95 - pen) * ink) * light * 255
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(1.5))
    noisy = np.asarray(image, dtype=float)[..., None] * [1.0, 0.96, 0.88] + dice.normal(0, noise, (*ink.shape, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _light(shape: tuple[int, ...], dice: np.random.Generator, darkest: float) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    angle = dice.uniform(0, 2 * math.pi)
    along = (math.cos(angle) * x + math.sin(angle) * y) / (abs(math.cos(angle)) + abs(math.sin(angle)))
    return 1 - (1 - darkest) * (along + 1) / 2


def _vignette(shape: tuple[int, ...]) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    return 1 - 0.3 * (x**2 + y**2)


def _ruled(shape: tuple[int, ...], spacing: int = 60) -> np.ndarray:
    paper = np.full((*shape, 3), 250.0)
    paper[spacing // 2 :: spacing] = [150, 180, 230]
    return paper


def _board(shape: tuple[int, ...], dice: np.random.Generator) -> np.ndarray:
    cloud = Image.fromarray(dice.uniform(0, 255, (9, 9)).astype(np.uint8)).resize(shape[::-1], Image.Resampling.BICUBIC)
    return np.array([35.0, 70, 50]) + (np.asarray(cloud, dtype=float)[..., None] / 255 - 0.5) * 18


def _with_alpha(ink: np.ndarray, colour: int) -> Image.Image:
    return Image.merge("LA", [Image.new("L", ink.shape[::-1], colour), Image.fromarray((ink * 255).astype(np.uint8))])


def _specks(ink: np.ndarray, dice: np.random.Generator) -> np.ndarray:
    spots = np.zeros_like(ink)
    for _ in range(12):
        y, x = dice.integers(0, np.array(ink.shape) - 3)
        spots[y : y + 3, x : x + 3] = 0.8
    return np.maximum(ink, spots)


def _sixteen(ink: np.ndarray, most: int) -> Image.Image:
    return Image.fromarray(((1 - 0.9 * ink) * most).astype(np.uint16))


Dice = np.random.Generator
WAYS: dict[str, tuple[str, Callable[[int, Dice], Image.Image]]] = {
    "black on white": ("png", lambda d, r: painted(mask(d, r))),
    "white on black": ("png", lambda d, r: painted(mask(d, r), (255, 255, 255), (0, 0, 0))),
    "in a corner": ("png", lambda d, r: painted(mask(d, r, (800, 600), 110, 9, (0.14, 0.2)))),
    "tiny": ("png", lambda d, r: painted(mask(d, r, (60, 60), 24, 2))),
    "huge": ("png", lambda d, r: painted(mask(d, r, (240, 240), 232, 20))),
    "tilted left": ("png", lambda d, r: painted(mask(d, r, tilt=-18))),
    "tilted right": ("png", lambda d, r: painted(mask(d, r, tilt=18))),
    "thin": ("png", lambda d, r: painted(mask(d, r, (500, 500), 380, 2))),
    "thick": ("png", lambda d, r: painted(mask(d, r, pen=36))),
    "shaded photo": ("jpg", lambda d, r: _photo(m := mask(d, r, (640, 480), 260, 14), _light(m.shape, r, 0.35), r)),
    "vignette": ("jpg", lambda d, r: _photo(m := mask(d, r, (480, 640), 300, 14), _vignette(m.shape), r, noise=8)),
    "pencil": ("jpg", lambda d, r: _photo(m := mask(d, r, (600, 600), 300, 9), _light(m.shape, r, 0.7), r, 0.7)),
    "blue on yellow": ("png", lambda d, r: painted(mask(d, r), (30, 60, 200), (250, 230, 80))),
    "green on red": ("png", lambda d, r: painted(mask(d, r), (0, 150, 0), (200, 60, 40))),
    "chalk": ("jpg", lambda d, r: painted(m := mask(d, r), (235, 235, 225), _board(m.shape, r))),
    "transparent, black": ("png", lambda d, r: _with_alpha(mask(d, r), 0)),
    "transparent, white": ("png", lambda d, r: _with_alpha(mask(d, r), 255)),
    "16 bits": ("png", lambda d, r: _sixteen(mask(d, r), 65535)),
    "12 bits": ("png", lambda d, r: _sixteen(mask(d, r), 4095)),
    "palette": ("png", lambda d, r: painted(mask(d, r), (120, 0, 60), (220, 240, 250)).quantize(16)),
    "one bit": ("png", lambda d, r: painted(mask(d, r)).convert("1")),
    "webp": ("webp", lambda d, r: painted(mask(d, r))),
    "gif": ("gif", lambda d, r: painted(mask(d, r), (255, 220, 0), (20, 20, 60))),
    "coarse jpeg": ("jpg", lambda d, r: painted(mask(d, r, (120, 120), 80, 6))),
    "wide picture": ("png", lambda d, r: painted(mask(d, r, (900, 200), 130, 10, (0.75, 0.5)))),
    "shaky": ("png", lambda d, r: painted(mask(d, r, wobble=0.045))),
    "specks": ("png", lambda d, r: painted(_specks(mask(d, r), r))),
    "ruled paper": ("png", lambda d, r: painted(m := mask(d, r, (400, 400), 200, 12), (20, 20, 60), _ruled(m.shape))),
}
"""By name: the suffix of the file, and from a digit and dice to a picture."""


def write(folder: Path, per_way: int = 1, seed: int = 0) -> list[tuple[Path, int, str]]:
    """Write `per_way` pictures of each digit in each way; return the files, their digits and their ways."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for way, (suffix, make) in WAYS.items():
        for digit in range(10):
            for number in range(per_way):
                dice = np.random.default_rng([seed, list(WAYS).index(way), digit, number])
                path = folder / f"{digit}_{way.replace(' ', '_').replace(',', '')}_{number}.{suffix}"
                make(digit, dice).save(path, **({"quality": 30} if way == "coarse jpeg" else {}))
                found.append((path, digit, way))
    return found


if __name__ == "__main__":
    print(f"{len(write(Path(sys.argv[1])))} pictures")
