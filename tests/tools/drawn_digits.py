"""Pictures of digits as people make them: strokes by hand, in many ways of drawing, photographing and saving.

python tests/tools/drawn_digits.py pictures/    # writes them, named <digit>_<way>_<number>.<suffix>
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Stroke = list[tuple[float, float]]

# each digit's two ways of being written: strokes through points x,y in percent of a box's height, y downwards
SHAPES = [
    [
        ["35,0 8,20 2,55 20,95 42,97 62,60 58,20 35,0"],
        ["45,2 12,10 0,50 15,92 45,100 70,75 72,30 42,0"],
    ],
    [
        ["20,0 18,50 16,100"],
        ["0,25 25,0", "25,0 24,50 23,100"],
    ],
    [
        ["2,20 25,0 55,10 55,40 30,70 0,100", "0,100 35,97 70,98"],
        ["5,15 35,0 60,20 45,55 10,90 2,78 30,82 70,97"],
    ],
    [
        ["5,10 35,0 58,20 45,42 22,47", "22,47 55,55 60,80 35,100 0,90"],
        ["0,5 30,0 50,15 40,40 20,45 50,52 62,75 40,98 2,95"],
    ],
    [
        ["10,0 5,30 2,52", "2,52 30,53 62,50", "55,2 53,50 50,100"],
        ["45,0 20,35 0,65", "0,65 35,65 70,63", "45,0 45,50 44,100"],
    ],
    [
        ["60,0 35,1 12,2", "12,2 9,22 6,42", "6,42 35,36 60,55 55,85 30,100 0,92"],
        ["65,3 40,3 18,5 10,25 12,42 40,45 55,65 42,92 2,97"],
    ],
    [
        ["50,0 22,20 5,55 10,88 35,100 58,82 50,58 25,55 8,72"],
        ["35,0 12,30 2,70 20,98 48,92 52,68 30,58 5,72"],
    ],
    [
        ["0,5 30,4 62,2", "62,2 42,45 22,100"],
        ["2,12 5,2 35,3 65,0", "65,0 45,50 30,100", "20,50 40,49 62,48"],
    ],
    [
        ["52,12 30,0 10,15 20,38 45,58 58,82 32,100 5,85 15,62 45,35 52,12"],
        ["30,0 10,12 14,35 32,45 52,32 52,10 30,0", "32,45 8,62 6,88 32,100 58,86 54,62 32,45"],
    ],
    [
        ["55,15 30,0 8,15 10,40 32,48 52,30 55,15", "55,15 52,55 46,100"],
        ["56,8 25,2 5,25 25,47 52,28 56,8 56,50 45,85 15,100"],
    ],
]


def written(digit: int, dice: np.random.Generator, wobble: float = 0.02, tilt: float = 0.0) -> list[Stroke]:
    """A digit in a hand of its own, at most 1 high and wide, about (0, 0); `tilt` in degrees."""
    strokes = SHAPES[digit][dice.integers(2)]
    turn = math.radians(tilt + dice.normal(0, 3))
    slant, wide = dice.normal(0.12, 0.12), dice.uniform(0.85, 1.2)
    found = []
    for stroke in strokes:
        points = np.array([point.split(",") for point in stroke.split()], dtype=float) / 100
        points = points + dice.normal(0, wobble, points.shape)
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


def write(
    folder: Path, per_way: int = 1, seed: int = 0, digits: Sequence[int] = range(10)
) -> list[tuple[Path, int, str]]:
    """Write `per_way` pictures of each of `digits` in each way; return the files, their digits and their ways."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for way, (suffix, make) in WAYS.items():
        for digit in digits:
            for number in range(per_way):
                dice = np.random.default_rng([seed, list(WAYS).index(way), digit, number])
                path = folder / f"{digit}_{way.replace(' ', '_').replace(',', '')}_{number}.{suffix}"
                make(digit, dice).save(path, **({"quality": 30} if way == "coarse jpeg" else {}))
                found.append((path, digit, way))
    return found


if __name__ == "__main__":
    print(f"{len(write(Path(sys.argv[1])))} pictures")
