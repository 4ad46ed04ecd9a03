"""A folder of small pictures in colours, drawn from a seed: `python tests/tools/shapes.py shapes` makes one.

Ten classes of shapes, in any colour, at any place, of any size, on any background, with noise; what colour they have
says nothing.
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

CLASSES = ["bars", "circle", "cross", "diamond", "frame", "ring", "square", "star", "stripes", "triangle"]


def draw(name: str, size: tuple[int, int], generator: Generator, *, grey: bool = False) -> Image.Image:
    """One picture of (width, height) pixels."""
    width, height = size
    dark, bright = generator.integers(0, 90, 3), generator.integers(150, 256, 3)
    paper, ink = (dark, bright) if generator.random() < 0.5 else (bright, dark)
    image = Image.new("RGB", size, tuple(paper.tolist()))
    pen, colour = ImageDraw.Draw(image), tuple(ink.tolist())
    r = min(size) * generator.uniform(0.28, 0.42)
    x, y = (side / 2 + generator.uniform(-0.08, 0.08) * side for side in size)
    box, thick = (x - r, y - r, x + r, y + r), max(1, round(r / 3))
    if name in ("bars", "stripes"):  # upright, flat
        for offset in (-r, 0, r - thick):
            across = (x + offset, y - r, x + offset + thick, y + r)
            pen.rectangle(across if name == "bars" else (x - r, y + offset, x + r, y + offset + thick), fill=colour)
    elif name == "circle":
        pen.ellipse(box, fill=colour)
    elif name == "ring":
        pen.ellipse(box, outline=colour, width=thick)
    elif name == "square":
        pen.rectangle(box, fill=colour)
    elif name == "frame":
        pen.rectangle(box, outline=colour, width=thick)
    elif name == "cross":
        pen.rectangle((x - r, y - thick / 2, x + r, y + thick / 2), fill=colour)
        pen.rectangle((x - thick / 2, y - r, x + thick / 2, y + r), fill=colour)
    elif name == "diamond":
        pen.polygon([(x, y - r), (x + r, y), (x, y + r), (x - r, y)], fill=colour)
    elif name == "triangle":
        pen.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=colour)
    else:
        points = [(np.pi * k / 5 - np.pi / 2, r if k % 2 == 0 else 0.4 * r) for k in range(10)]
        pen.polygon([(x + far * np.cos(angle), y + far * np.sin(angle)) for angle, far in points], fill=colour)
    noisy = np.asarray(image) + generator.normal(0, 6, (height, width, 3))
    image = Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8))
    return image.convert("L") if grey else image


def make_folder(
    folder: Path, count: int, size: tuple[int, int] = (32, 32), *, seed: int = 0, grey: bool = False, classes: int = 10
) -> Path:
    """Make `count` pictures of each of the first classes, folder/<class>/<number>.png."""
    generator = np.random.default_rng(seed)
    for name in CLASSES[:classes]:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            draw(name, size, generator, grey=grey).save(folder / name / f"{number:04d}.png", compress_level=1)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200, help="pictures of each class")
    parser.add_argument("--size", type=int, nargs=2, default=(32, 32), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--grey", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    make_folder(given.folder, given.count, tuple(given.size), seed=given.seed, grey=given.grey)
