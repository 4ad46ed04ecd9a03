"""Draw what Forward-Forward is shown, made from the first images of MNIST: results/negatives.png.

FFBP_DATA_DIR=... python results/negatives.py
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch.nn.functional import one_hot

from ffbp.algorithms.forward_forward.labels import fourier, overlay
from ffbp.algorithms.forward_forward.negatives import blends, hybrids, region_masks, scrambled, uniform_negatives
from ffbp.data.sources import idx_set

COUNT, CLASSES = 4, 10
LABEL = "#d1495b"  # a frame around the ten pixels


def main() -> None:
    training, _ = idx_set("mnist", Path(os.environ.get("FFBP_DATA_DIR", "data")))
    images, labels = training.images[:COUNT] / 255, training.labels[:COUNT].long()
    generator = torch.Generator().manual_seed(0)
    false = uniform_negatives(labels, CLASSES, torch.rand(COUNT, generator=generator))
    masks = region_masks(torch.rand(COUNT, 28, 28, generator=generator))
    weights = {"true label": one_hot(labels, CLASSES).float(), "false label": one_hot(false, CLASSES).float()}
    weights["neutral (a tenth of each)"] = torch.full((COUNT, CLASSES), 1 / CLASSES)
    corner, wave = overlay((1, 28, 28), CLASSES), fourier((1, 28, 28), CLASSES)
    columns = {
        **{f"pixels, {name}": corner(images, each) for name, each in weights.items()},
        **{f"waves, {name}": wave(images, each) for name, each in weights.items()},
        "mask": masks.unsqueeze(1),
        "hybrid": hybrids(images, masks),
        "blend": blends(images),
        "noise": scrambled(images, torch.rand(COUNT, 28 * 28, generator=generator)),
    }
    figure, axes = plt.subplots(COUNT, len(columns), figsize=(1.2 * len(columns), 1.3 * COUNT), layout="constrained")
    for line, (name, pictures) in zip(axes.T, columns.items(), strict=True):
        for number, (axis, picture) in enumerate(zip(line, pictures, strict=True)):
            shown = {"true": int(labels[number]), "false": int(false[number])}
            label = next((shown[kind] for kind in shown if kind in name), None)
            draw(axis, picture[0], label, boxed="pixels" in name)
        line[0].set_title(name.replace(", ", ":\n").replace(" (", "\n("), fontsize=9)
    path = Path(__file__).with_suffix(".png")
    figure.savefig(path, dpi=110)
    print(path)


def draw(axis: Axes, picture: torch.Tensor, label: int | None, *, boxed: bool) -> None:
    """Draw a picture, shape (H, W), and the label that it shows."""
    axis.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    if boxed:
        axis.add_patch(Rectangle((-0.5, -0.5), CLASSES, 1, fill=False, edgecolor=LABEL, linewidth=1))
    if label is not None:
        axis.text(0.97, 0.03, str(label), transform=axis.transAxes, ha="right", va="bottom", color=LABEL, fontsize=12)


if __name__ == "__main__":
    main()
