"""Label embeddings: how an image carries a label that Forward-Forward can judge.

Every embedding is affine in the label: embed(x, w) = blank(x) + sum_c w_c P_c, where P_c is the pattern of class c, and
the weights w (B, classes) are one-hot for a label, or 1/classes each for the neutral label. A layer's product W is
linear, so W embed(x, w) = W blank(x) + sum_c w_c W P_c: positives, negatives, the neutral label and all labels at once
share one product of the image. `LabelUnits` has no patterns, but learns what each label adds to the products.

Throughout, `image_shape` is channels, height and width, and `strength` the brightness of a label, where white is 1.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ffbp.algorithms.answering import evaluating
from ffbp.errors import ConfigError
from ffbp.models import Block, Stack

LabelEmbeddingName = Literal["overlay", "channels", "fourier", "units"]
MOST_NUMBERS = 2**28
"""In all patterns together: a gigabyte."""


class FirstProducts(NamedTuple):
    """The first layer's products with images and with labels, to be added up."""

    images: Tensor  # (B, ...), bias included
    labels: Tensor  # (classes, ...), or (0, ...) if no labels are shown


class LabelEmbedding(nn.Module):
    """Map images (B, C, H, W), floats in [0, 1], and weights (B, classes) to images with labels (B, C', H, W).

    Args:
        patterns: what each class adds to an image, shape (classes, C', H, W), or (0, C, H, W) to show no labels; the
            images' own channels are the first of the C'.
        covered: how many pixels are cleared for the label, row by row from the top, in all channels.

    Attributes:
        weights: of labels, one for each layer: none, since patterns are multiplied by the first layer's own.
    """

    patterns: Tensor
    weights: Sequence[nn.Parameter] = ()

    def __init__(self, patterns: Tensor, covered: int = 0) -> None:
        super().__init__()
        self.register_buffer("patterns", patterns, persistent=False)  # follows from the settings: not in checkpoints
        self.covered = covered

    def rows(self, images: Tensor) -> Tensor:
        """Stack blank images, patterns and an image of zeros: shape (B + classes + 1, C', H, W)."""
        count, channels = images.shape[:2]
        rows = images.new_zeros(count + len(self.patterns) + 1, *self.patterns.shape[1:])
        rows[:count, :channels] = images
        rows[:count].flatten(2)[..., : self.covered] = 0
        rows[count:-1] = self.patterns
        return rows

    def forward(self, images: Tensor, weights: Tensor) -> Tensor:
        blank = self.rows(images)[: len(images)]
        return blank + torch.einsum("bk,kchw->bchw", weights, self.patterns)

    def products(self, first: Block, images: Tensor) -> FirstProducts:
        """Multiply images (B, C, H, W) and labels by the weights of the first layer.

        The patterns are multiplied as further images of the batch. So is an image of zeros, whose product, the bias
        alone, is subtracted from theirs.
        """
        count = images.shape[0]  # len() would be a constant in an exported graph
        rows = self.rows(images)  # (B + classes + 1, C', H, W)
        if first.training and first.dropout.p:
            rows[:count] = first.dropout(rows[:count])
        product = first.product(rows)  # (B + classes + 1, ...)
        return FirstProducts(product[:count], product[count:-1] - product[-1:])

    def labelled(self, k: int, product: Tensor, weights: Tensor | None) -> Tensor:
        """The product of a later layer as it is: only the first one sees the label."""
        return product


class LabelUnits(nn.Module):
    """A unit for each class beside the image, which every layer sees: the label's is on, the others are off.

    Each has a weight to every unit of every layer, in a convolution to every channel at every position.

    Args:
        stack: whose layers see it.
        strength: activity of the label's unit.

    Attributes:
        weights: of the labels, one for each layer, shape (classes, ...): they learn with that layer.
    """

    def __init__(self, stack: Stack, strength: float = 1.0) -> None:
        super().__init__()
        self.strength, self.weights = strength, nn.ParameterList()
        seen = torch.zeros(1, *stack.image_shape)
        with torch.no_grad(), evaluating(stack):
            for block in stack.blocks:
                product = block.product(seen)
                if (numbers := stack.classes * product.numel()) > MOST_NUMBERS:
                    raise ValueError(f"needs {numbers:,} weights for {stack.classes} classes; use fourier or overlay")
                bound = 1 / math.sqrt(seen.numel())  # as of a dense layer, to which labels are inputs like all others
                weights = torch.empty(stack.classes, *product.shape[1:]).uniform_(-bound, bound)
                self.weights.append(nn.Parameter(weights))
                seen = block.after(product)

    def forward(self, images: Tensor, weights: Tensor) -> Tensor:
        """Images (B, C, H, W) with the units' activities as further channels, (B, C + classes, H, W), to be looked at.

        `weights` (B, classes) are those of the labels, see above.
        """
        units = self.strength * weights[:, :, None, None].expand(-1, -1, *images.shape[2:])
        return torch.cat([images, units], 1)

    def products(self, first: Block, images: Tensor) -> FirstProducts:
        """Multiply images (B, C, H, W) and labels by the weights of the first layer."""
        product = first.product(first.dropout(images))  # (B, ...)
        return FirstProducts(product, self.strength * self.weights[0].to(product.dtype))

    def labelled(self, k: int, product: Tensor, weights: Tensor | None) -> Tensor:
        """Add labels, of weights (B, classes) or (1, classes) for all images, to the product (B, ...) of layer k."""
        assert weights is not None
        added = self.strength * weights @ self.weights[k].flatten(1)  # (B, units)
        labelled: Tensor = product + added.view(-1, *product.shape[1:]).to(product.dtype)
        return labelled


def channels(image_shape: Sequence[int], classes: int, strength: float = 1.0) -> LabelEmbedding:
    """Append a channel for each class: `strength` everywhere for the label, 0 for the others.

    Raises:
        ValueError: if there are so many classes that the planes are more than `MOST_NUMBERS`.

    Source: the usual way to condition a convolutional network, as in Mirza and Osindero 2014 (arXiv:1411.1784).
    """
    if (numbers := classes * (image_shape[0] + classes) * math.prod(image_shape[1:])) > MOST_NUMBERS:
        raise ValueError(f"needs {numbers:,} numbers for the planes of {classes} classes; use fourier or overlay")
    planes = torch.zeros(classes, image_shape[0] + classes, *image_shape[1:])
    planes[torch.arange(classes), image_shape[0] + torch.arange(classes)] = strength
    return LabelEmbedding(planes)


def overlay(image_shape: Sequence[int], classes: int, strength: float = 1.0) -> LabelEmbedding:
    """Replace the first pixels, row by row from the top, one for each class: `strength` for the label, 0 for others.

    Raises:
        ValueError: if no pixel would be left of an image.

    Source: Hinton 2022, section 3.3.
    """
    channels, height, width = image_shape
    if height * width <= classes:
        raise ValueError(
            f"needs images of more than {classes} pixels, one for each class; these are {height} x {width}"
        )
    patterns = torch.zeros(classes, channels, height * width)
    patterns[:, :, :classes] = strength * torch.eye(classes).unsqueeze(1)
    return LabelEmbedding(patterns.view(classes, channels, height, width), covered=classes)


def fourier(image_shape: Sequence[int], classes: int, strength: float = 0.35) -> LabelEmbedding:
    """Add to the image a plane wave of amplitude `strength`, which every window of a convolution sees.

    Class c has direction pi c / classes, phase c, and in turn 2.5 or 4.5 waves across the image, so that classes of
    neighbouring directions differ in frequency.

    Raises:
        ValueError: if two waves would be nearly equal: on less than 8 pixels, or with more than 300 classes.

    Source: after Scodellaro et al. 2023 (arXiv:2312.14924), section on spatially extended labels.
    """
    channels, height, width = image_shape
    if min(height, width) < 8 or classes > 300:
        raise ValueError(
            f"needs images of 8 x 8 pixels or more and at most 300 classes, whose waves differ; these are {height} x "
            f"{width} and {classes}"
        )
    rows = torch.arange(height).float().unsqueeze(1) / height  # (H, 1)
    columns = torch.arange(width).float() / width  # (W,)
    waves = []
    for label in range(classes):
        direction, frequency = math.pi * label / classes, 2.5 + 2.0 * (label % 2)
        along = math.cos(direction) * columns + math.sin(direction) * rows  # (H, W)
        waves.append(torch.cos(2 * math.pi * frequency * along + label))
    return LabelEmbedding(strength * torch.stack(waves).unsqueeze(1).repeat(1, channels, 1, 1))


EMBEDDINGS = {"overlay": overlay, "channels": channels, "fourier": fourier}


def make_embedding(
    name: LabelEmbeddingName | None, stack: Stack, strength: float | None
) -> LabelEmbedding | LabelUnits:
    """Make a label embedding for a stack; for `channels`, the first layer of the stack gets more input channels.

    A `name` of None means overlay if the first layer is dense, fourier if not; a `strength` of None, the default. A
    ConfigError if the stack cannot have this embedding.
    """
    if name is None:
        name = "overlay" if stack.blocks[0].dense else "fourier"
    given = {} if strength is None else {"strength": strength}
    try:
        if name == "units":
            return LabelUnits(stack, **given)
        if name == "channels":
            stack.widen(stack.classes)
        return EMBEDDINGS[name](stack.image_shape, stack.classes, **given)
    except ValueError as error:
        raise ConfigError(f"algo.label_embedding={name}: {error}.") from error
