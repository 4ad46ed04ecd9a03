"""Negative data: the false labels that real images are shown with."""

import torch
from torch import Tensor


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
