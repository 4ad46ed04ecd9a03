"""Label embeddings: how an image carries a label that Forward-Forward can judge.

Every embedding here is affine in the label: embed(x, w) = blank(x) + sum_c w_c P_c, where w (B, classes) is one-hot
for a label and 1/classes each for the neutral one, and P_c is the pattern of class c. A layer's product is linear,
so that W embed(x, w) = W blank(x) + sum_c w_c (W P_c): positives, negatives, the neutral label and all labels at once
share one product of the image.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LabelEmbedding(nn.Module):
    """An affine label embedding.

    Args:
        patterns: what each class adds to an image, shape (classes, C, H, W); with more channels than the images have,
            these go first. Without rows no label is shown at all.
        covered: how many pixels of the top row, in the first channel, give way to the label.
    """

    patterns: Tensor

    def __init__(self, patterns: Tensor, covered: int = 0) -> None:
        super().__init__()
        self.register_buffer("patterns", patterns, persistent=False)  # fixed by the settings, hence in no checkpoint
        self.covered = covered

    def rows(self, images: Tensor) -> Tensor:
        """Images with room for a label, then each class's pattern, then a row of zeros: all of embed(x, w)'s terms.

        Args:
            images: shape (B, C, H, W), floats in [0, 1].

        Returns:
            shape (B + classes + 1, C', H, W), C' being the channels of the patterns.
        """
        count, channels = images.shape[:2]
        rows = images.new_zeros(count + len(self.patterns) + 1, *self.patterns.shape[1:])
        rows[:count, :channels] = images
        rows[:count, 0, 0, : self.covered] = 0
        rows[count:-1] = self.patterns
        return rows

    def forward(self, images: Tensor, weights: Tensor) -> Tensor:
        """Write a label, or a mixture of labels, into each image.

        Args:
            images: shape (B, C, H, W), floats in [0, 1].
            weights: of each class, shape (B, classes): one-hot, or 1/classes each for the neutral label.

        Returns:
            shape (B, C', H, W).
        """
        blank = self.rows(images)[: len(images)]
        return blank + torch.einsum("bk,kchw->bchw", weights, self.patterns)


def unlabelled(image_shape: Sequence[int]) -> LabelEmbedding:
    """Show the image and nothing else, for learning without labels."""
    return LabelEmbedding(torch.zeros(0, *image_shape))


def channels(image_shape: Sequence[int], classes: int, strength: float = 1.0) -> LabelEmbedding:
    """Append a plane for each class, all `strength` for the label and zeros for the others.

    Source: the usual way to condition a convolutional network, as in Mirza and Osindero 2014 (arXiv:1411.1784).
    """
    planes = torch.zeros(classes, image_shape[0] + classes, *image_shape[1:])
    planes[torch.arange(classes), image_shape[0] + torch.arange(classes)] = strength
    return LabelEmbedding(planes)


def overlay(image_shape: Sequence[int], classes: int, strength: float = 1.0) -> LabelEmbedding:
    """Replace the first pixels of the top row by the label, one-hot; neutral is strength/classes in each.

    Args:
        image_shape: channels, height and width.
        classes: how many pixels.
        strength: of the label's pixel, where a white pixel is 1.

    Raises:
        ValueError: if a row has fewer pixels than there are classes.

    Source: Hinton 2022, section 3.3.
    """
    channels, height, width = image_shape
    if width < classes:
        raise ValueError(f"needs images at least {classes} pixels wide, these have {width}")
    patterns = torch.zeros(classes, channels, height, width)
    patterns[:, 0, 0, :classes] = strength * torch.eye(classes)
    return LabelEmbedding(patterns, covered=classes)


def fourier(image_shape: Sequence[int], classes: int, strength: float) -> LabelEmbedding:
    """Add a plane wave to the image, of a direction, frequency and phase of its class: every window sees it.

    Class c has direction pi c / classes, and two and a half or four and a half waves across the image in turn, so
    that neighbours in direction differ in frequency.

    Args:
        image_shape: channels, height and width.
        classes: how many waves.
        strength: the wave's amplitude, where a white pixel is 1.

    Source: after Scodellaro et al. 2023 (arXiv:2312.14924), section on spatially extended labels.
    """
    channels, height, width = image_shape
    rows = torch.arange(height).float().unsqueeze(1) / height  # (H, 1)
    columns = torch.arange(width).float() / width  # (W,)
    waves = []
    for label in range(classes):
        direction = math.pi * label / classes
        frequency = 2.5 + 2.0 * (label % 2)
        along = math.cos(direction) * columns + math.sin(direction) * rows  # (H, W)
        waves.append(torch.cos(2 * math.pi * frequency * along + label))
    patterns = strength * torch.stack(waves).unsqueeze(1).repeat(1, channels, 1, 1)
    return LabelEmbedding(patterns)


EMBEDDINGS = {"overlay": overlay, "channels": channels, "fourier": fourier}
