"""Negative data: false labels for real images, or images that show no digit.

Throughout, `labels` are true classes, shape (B,), integers in [0, classes); `images` have shape (B, C, H, W); and
`uniform` are random numbers in [0, 1). Drawing a wrong class raises ValueError if there are fewer than 2 classes.
"""

import torch
from torch import Tensor


def uniform_negatives(labels: Tensor, classes: int, uniform: Tensor) -> Tensor:
    """Draw one of the wrong classes for each image, all equally likely: shape (B,), from `uniform` (B,).

    Source: Hinton 2022, section 3.3.
    """
    if classes < 2:
        raise ValueError(f"a wrong label needs at least 2 classes, there are {classes}")
    offset = 1 + (uniform * (classes - 1)).long().clamp_(max=classes - 2)  # (B,) in [1, classes)
    return (labels + offset) % classes


def hard_negatives(labels: Tensor, logits: Tensor, uniform: Tensor) -> Tensor:
    """Draw one of the wrong classes for each image, shape (B,), with the probabilities that a classifier gives them.

    The class with the largest sum of logit, from `logits` (B, classes), and Gumbel noise, made of `uniform` (B,
    classes), is a sample from the softmax distribution.

    Source: Hinton 2022, section 3.3, and his Matlab code.
    """
    if logits.shape[1] < 2:
        raise ValueError(f"a wrong label needs at least 2 classes, there are {logits.shape[1]}")
    above_zero = uniform.clamp_min(torch.finfo(uniform.dtype).tiny)  # of which minus infinity would be made
    gumbel = -torch.log(-torch.log(above_zero))  # (B, classes)
    return (logits + gumbel).scatter(1, labels.unsqueeze(1), -torch.inf).argmax(1)


def all_negatives(labels: Tensor, classes: int) -> Tensor:
    """All wrong classes of each image, shape (classes - 1, B)."""
    offsets = torch.arange(1, classes, device=labels.device).unsqueeze(1)  # (classes - 1, 1)
    return (labels + offsets) % classes


def region_masks(uniform: Tensor, blurs: int = 6) -> Tensor:
    """Draw masks with large regions of 0 and of 1, about half each: floats, shape (B, H, W), from `uniform` (B, H, W).

    Random bits are blurred `blurs` times with [1/4, 1/2, 1/4] along both axes, and compared with 1/2. More blurs make
    larger regions. The outermost bits are repeated beyond the border, so that 0 and 1 are as likely there as inside.

    Source: Hinton 2022, section 3.2.
    """
    bits = (uniform < 0.5).float()
    down, across = (_blur(side, blurs, uniform.device) for side in bits.shape[1:])
    return (down @ bits @ across.T > 0.5).float()


def _blur(side: int, times: int, device: torch.device) -> Tensor:
    """The matrix, shape (side, side), that blurs a column of pixels `times` times."""
    same = torch.eye(side, dtype=torch.float, device=device)
    above, below = torch.cat([same[:1], same[:-1]]), torch.cat([same[1:], same[-1:]])
    return (0.25 * above + 0.5 * same + 0.25 * below).matrix_power(times)


def hybrids(images: Tensor, masks: Tensor) -> Tensor:
    """Mix each image with the previous one of the batch: its strokes are those of digits, but it shows no digit.

    `masks` (B, H, W) are 1 where an image shows itself, and 0 where it shows the other one. With several processes,
    each mixes the images of its own part of the batch, so the hybrids depend on the number of processes.

    Source: Hinton 2022, section 3.2.
    """
    return torch.lerp(images.roll(1, 0), images, masks.unsqueeze(1).to(images.dtype))


def blends(images: Tensor) -> Tensor:
    """The mean of each image and the previous one of the batch: both digits at once, and neither as it was.

    A layer's product with it is the mean of its products with both. So this is the contrast of an image beside itself
    with an image beside another one, seen through the same weights. With several processes, see `hybrids`.

    Source: Chen et al. 2025, self-contrastive Forward-Forward (arXiv:2409.11593), section 2.
    """
    return (images + images.roll(1, 0)) / 2


def scrambled(images: Tensor, uniform: Tensor) -> Tensor:
    """Shuffle each image's pixels by `uniform` (B, H * W): the histogram stays, the digit goes; shape (B, C, H, W).

    Source: the "fake data or noise" of the article.
    """
    order = uniform.argsort(1).unsqueeze(1).expand(-1, images.shape[1], -1)  # (B, C, H * W)
    return images.flatten(2).gather(2, order).view_as(images)
