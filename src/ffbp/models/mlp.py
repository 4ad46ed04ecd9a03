"""A multi-layer perceptron of any widths."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize

from ffbp.models.batch_norm import BatchNorm
from ffbp.models.stack import Block, Stack
from ffbp.settings import Counts, Probability, checked

Window = Annotated[float, Field(ge=0.5, allow_inf_nan=False)]
"""Standard deviation in pixels; below half a pixel, a window could miss all of them."""


@checked
def mlp(
    *,
    image_shape: Sequence[int],
    classes: int,
    widths: Counts,
    activation: Literal["relu", "tanh", "sigmoid"],
    batch_norm: bool,
    initial_window: Window | None = None,
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
        initial_window: standard deviation, in pixels, of the windows of the image in which the units of the first layer
            start, see `start_in_windows`; None to start with all of the image.
        input_dropout: probability that a pixel is dropped in training.
        dropout: probability that a hidden activity is dropped in training.
    """
    blocks: list[Block] = []
    inputs, drop = math.prod(image_shape), input_dropout
    for width in widths:
        functions = {"relu": nn.ReLU(inplace=True), "tanh": nn.Tanh(), "sigmoid": nn.Sigmoid()}
        norm = [BatchNorm(width)] if batch_norm else []
        affine = nn.Linear(inputs, width)
        if not blocks and initial_window is not None:
            start_in_windows(affine, image_shape, initial_window)
        blocks.append(Block(affine, *norm, functions[activation], dropout=drop))
        inputs, drop = width, dropout
    return Stack(blocks, image_shape=image_shape, classes=classes, dropout=dropout)


@torch.no_grad()
def start_in_windows(layer: nn.Linear, image_shape: Sequence[int], deviation: float) -> None:
    """Let each unit start with a part of the image: weights fade with the distance from a place drawn for the unit.

    They are multiplied by a Gaussian of standard deviation `deviation`, in pixels, then scaled back to their length.
    No place is closer to the edge than that. All weights can be learned as before.

    Args:
        layer: a dense layer, whose inputs are the pixels of an image of shape `image_shape`.
    """
    channels, height, width = image_shape

    def nearness(side: int) -> Tensor:
        margin = min(deviation, (side - 1) / 2)
        places = margin + (side - 1 - 2 * margin) * torch.rand(layer.out_features, 1)
        return torch.exp(-(((torch.arange(side) - places) / deviation) ** 2) / 2)  # (units, side)

    windows = torch.einsum("uh,uw->uhw", nearness(height), nearness(width)).unsqueeze(1)
    windowed = (layer.weight.view(-1, channels, height, width) * windows).view_as(layer.weight)
    lengths = layer.weight.norm(dim=1, keepdim=True)
    layer.weight.copy_(normalize(windowed) * lengths)
