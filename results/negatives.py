"""Draw the negatives that need no labels, made from the first images of MNIST: results/negatives.png.

FFBP_DATA_DIR=... python results/negatives.py
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from ffbp.algorithms.forward_forward.negatives import hybrids, region_masks, scrambled
from ffbp.data.sources import idx_set

COUNT = 10


def main() -> None:
    training, _ = idx_set("mnist", Path(os.environ.get("FFBP_DATA_DIR", "data")))
    images = training.images[:COUNT] / 255
    generator = torch.Generator().manual_seed(0)
    masks = region_masks(torch.rand(COUNT, 28, 28, generator=generator))
    rows = {
        "image": images,
        "mask": masks.unsqueeze(1),
        "hybrid": hybrids(images, masks),
        "noise": scrambled(images, torch.rand(COUNT, 28 * 28, generator=generator)),
    }
    figure, axes = plt.subplots(len(rows), COUNT, figsize=(COUNT, len(rows)), layout="constrained")
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture[0], cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, fontsize=12)
    path = Path(__file__).with_suffix(".png")
    figure.savefig(path, dpi=80)
    print(path)


if __name__ == "__main__":
    main()
