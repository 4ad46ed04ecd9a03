"""Hinton's network of local receptive fields without weight sharing."""

from collections.abc import Sequence

from torch import nn

from ffbp.errors import ConfigError
from ffbp.models.local_layer import LocalConv2d
from ffbp.models.stack import Block, Stack
from ffbp.settings import Counts, Probability, checked


@checked
def local(
    *,
    image_shape: Sequence[int],
    classes: int,
    channels: Counts,
    kernel_sizes: Counts,
    strides: Counts,
    input_dropout: Probability,
    dropout: Probability,
) -> Stack:
    """Build layers of local receptive fields, each position with weights of its own, and a head.

    As Hinton's by default: 128 units at each of 4 x 4 positions, 220 at 3 x 3, 512 at 2 x 2, about 2,000 a layer.

    Args:
        image_shape: channels, height and width of an image.
        classes: how many logits.
        channels: units at each position, for each layer.
        kernel_sizes: height and width of a receptive field, for each layer.
        strides: between neighbouring fields, for each layer.
        input_dropout: share of the pixels dropped in training.
        dropout: share of each hidden layer's activities dropped in training.

    Source: Hinton 2022, section 3.2.
    """
    if not len(channels) == len(kernel_sizes) == len(strides):
        raise ConfigError("model.channels, kernel_sizes and strides: as many of each expected.")
    blocks = []
    below, side, drop = image_shape[0], (image_shape[1], image_shape[2]), input_dropout
    for units, kernel_size, stride in zip(channels, kernel_sizes, strides, strict=True):
        try:
            layer = LocalConv2d(below, units, side, kernel_size=kernel_size, stride=stride)
        except ValueError as error:
            raise ConfigError(f"model.kernel_sizes={kernel_sizes}: {error}.") from error
        blocks.append(Block(layer, nn.ReLU(inplace=True), dropout=drop))
        below, side, drop = units, layer.grid, dropout
    return Stack(blocks, Block(nn.Linear(below * side[0] * side[1], classes), dropout=drop), image_shape)
