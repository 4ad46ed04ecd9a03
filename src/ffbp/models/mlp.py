"""A multi-layer perceptron of any widths."""

import math
from collections.abc import Sequence
from typing import Literal

from torch import nn

from ffbp.models.batch_norm import BatchNorm
from ffbp.models.stack import Block, Stack
from ffbp.settings import Counts, Probability, checked


@checked
def mlp(
    *,
    image_shape: Sequence[int],
    classes: int,
    widths: Counts,
    activation: Literal["relu", "tanh", "sigmoid"],
    batch_norm: bool,
    input_dropout: Probability,
    dropout: Probability,
) -> Stack:
    """Build a perceptron; `widths=[128]` on MNIST is 784-128-10 with 101,770 parameters.

    Args:
        image_shape: channels, height and width of an image.
        classes: how many logits.
        widths: units of each hidden layer.
        activation: applied to each hidden product.
        batch_norm: normalise each hidden product over the batch, before the activation.
        input_dropout: probability that a pixel is dropped in training.
        dropout: probability that a hidden activity is dropped in training.
    """
    blocks = []
    inputs, drop = math.prod(image_shape), input_dropout
    for width in widths:
        functions = {"relu": nn.ReLU(inplace=True), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid()}
        norm = [BatchNorm(width)] if batch_norm else []
        blocks.append(Block(nn.Linear(inputs, width), *norm, functions[activation], dropout=drop))
        inputs, drop = width, dropout
    return Stack(blocks, image_shape=image_shape, classes=classes, dropout=dropout)
