"""Negative data: real images under false labels, or false images under none."""

import torch
from torch import Tensor

LABEL_NEGATIVES = ("uniform", "hard", "all")
"""Negatives that are real images with a false label; the others are false images, and nothing sees a label."""


def uniform_negatives(labels: Tensor, classes: int, uniform: Tensor) -> Tensor:
    """Draw, for each label, one of the other classes, uniformly.

    Args:
        labels: true classes, shape (B,), integers in [0, classes).
        classes: how many there are, at least 2.
        uniform: random numbers in [0, 1), shape (B,).

    Returns:
        wrong classes, shape (B,), never equal to `labels`.

    Raises:
        ValueError: if `classes` is below 2.

    Source: Hinton 2022, section 3.3.
    """
    if classes < 2:
        raise ValueError(f"a wrong label needs at least 2 classes, there are {classes}")
    offset = 1 + (uniform * (classes - 1)).long().clamp_(max=classes - 2)  # (B,) in [1, classes)
    return (labels + offset) % classes


def hard_negatives(labels: Tensor, logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw, for each image, a wrong class with the probability that a classifier gives it among the wrong ones.

    The class with the largest sum of logit and Gumbel noise is a sample of the softmax distribution.

    Args:
        labels: true classes, shape (B,).
        logits: the classifier's, shape (B, classes), at least 2 classes.
        uniform: random numbers in [0, 1), shape (B, classes).

    Returns:
        wrong classes, shape (B,), never equal to `labels`.

    Raises:
        ValueError: if there are fewer than 2 classes.

    Source: Hinton 2022, section 3.3, and his Matlab code.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"a wrong label needs at least 2 classes, there are {logits.shape[1]}")
    gumbel = -torch.log(-torch.log(uniform))  # (B, classes)
    return (logits + gumbel).scatter(1, labels.unsqueeze(1), -torch.inf).argmax(1)


def all_negatives(labels: Tensor, classes: int) -> Tensor:
    """Every wrong class of each image.

    Args:
        labels: true classes, shape (B,).
        classes: how many there are.

    Returns:
        wrong classes, shape (classes - 1, B).
    """
    offsets = torch.arange(1, classes, device=labels.device).unsqueeze(1)  # (classes - 1, 1)
    return (labels + offsets) % classes


def region_masks(uniform: Tensor, blurs: int = 6) -> Tensor:
    """Random masks of large connected regions, about half of each 1 and half 0.

    Random bits are blurred again and again with [1/4, 1/2, 1/4] along both axes and cut at 1/2. At the border the
    outermost bit stands for the missing one, so that no value is more likely there than inside. The blurs are powers
    of a tridiagonal matrix: two products a batch, however many there are.

    Args:
        uniform: random numbers in [0, 1), shape (B, H, W).
        blurs: how often; more make larger regions.

    Returns:
        0 and 1 as floats, shape (B, H, W).

    Source: Hinton 2022, section 3.2.
    """
    bits = (uniform < 0.5).float()
    down, across = (_blur(side, blurs, uniform.device) for side in bits.shape[1:])
    return (down @ bits @ across.T > 0.5).float()


def _blur(side: int, times: int, device: torch.device) -> Tensor:
    """The matrix, shape (side, side), that blurs a column of pixels `times` over."""
    below = torch.eye(side, device=device).roll(1, 0)
    below[0], above = 0, torch.eye(side, device=device).roll(-1, 0)
    above[-1] = 0
    once = 0.25 * below + 0.5 * torch.eye(side, device=device) + 0.25 * above
    once[0, 0] += 0.25
    once[-1, -1] += 0.25
    power: Tensor = torch.linalg.matrix_power(once, times)
    return power


def hybrids(images: Tensor, masks: Tensor) -> Tensor:
    """Mix each image with the next one of the batch: its strokes are real, its shape is no digit's.

    Several processes each mix the images that they have, so that two do not draw the hybrids of one.

    Args:
        images: shape (B, C, H, W), in random order.
        masks: where an image shows itself, 1, and where the other one, 0: shape (B, H, W).

    Returns:
        shape (B, C, H, W).

    Source: Hinton 2022, section 3.2.
    """
    masks = masks.unsqueeze(1).to(images.dtype)
    return torch.lerp(images.roll(1, 0), images, masks)


def scrambled(images: Tensor, uniform: Tensor) -> Tensor:
    """Put the pixels of each image in a random order: its histogram stays, its digit goes.

    Args:
        images: shape (B, C, H, W).
        uniform: random numbers in [0, 1), shape (B, H * W).

    Returns:
        shape (B, C, H, W).

    Source: the "fake data or noise" of the compared paper.
    """
    order = uniform.argsort(1).unsqueeze(1).expand(-1, images.shape[1], -1)  # (B, C, H * W)
    return images.flatten(2).gather(2, order).view_as(images)
