"""A multi-layer perceptron of any widths."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import nn

from ffbp.models.stack import Block, Stack
from ffbp.settings import Counts, Probability, checked

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": partial(nn.ReLU, inplace=True),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}


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
    """Build image -> widths -> classes; `widths=[128]` on MNIST is 784-128-10, 101,770 parameters.

    Args:
        image_shape: channels, height and width of an image.
        classes: how many logits.
        widths: units of each hidden layer.
        activation: what follows each hidden product.
        batch_norm: normalise each hidden product over the batch, in front of the activation.
        input_dropout: share of the pixels dropped in training.
        dropout: share of each hidden layer's activities dropped in training.
    """
    blocks = []
    inputs, drop = math.prod(image_shape), input_dropout
    for width in widths:
        norm = [nn.BatchNorm1d(width)] if batch_norm else []
        blocks.append(Block(nn.Linear(inputs, width), *norm, ACTIVATIONS[activation](), dropout=drop))
        inputs, drop = width, dropout
    return Stack(blocks, Block(nn.Linear(inputs, classes), dropout=drop), image_shape)
