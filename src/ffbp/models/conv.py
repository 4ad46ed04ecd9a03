"""A convolutional network of any size whose windows are wide enough to see a label."""

from collections.abc import Sequence

from torch import nn

from ffbp.errors import ConfigError
from ffbp.models.stack import Block, Stack
from ffbp.settings import Counts, Probability, checked


@checked
def conv(
    *,
    image_shape: Sequence[int],
    classes: int,
    channels: Counts,
    kernel_sizes: Counts,
    strides: Counts,
    input_dropout: Probability,
    dropout: Probability,
) -> Stack:
    """Build convolutions with strides in place of pooling, and a head.

    Args:
        image_shape: channels, height and width of an image.
        classes: how many logits.
        channels: maps of each layer.
        kernel_sizes: height and width of each layer's windows, odd.
        strides: of each layer's windows: 2 halves the maps.
        input_dropout: share of the pixels dropped in training.
        dropout: share of each hidden layer's activities dropped in training.

    Source: of the strides, Springenberg et al. 2015 (arXiv:1412.6806).
    """
    if not len(channels) == len(kernel_sizes) == len(strides):
        raise ConfigError("model.channels, kernel_sizes and strides: as many of each expected.")
    if any(size % 2 == 0 for size in kernel_sizes):
        raise ConfigError(f"model.kernel_sizes={kernel_sizes}: odd numbers expected, so that a window has a middle.")
    blocks = []
    below, height, width = image_shape
    drop = input_dropout
    for maps, kernel_size, stride in zip(channels, kernel_sizes, strides, strict=True):
        convolution = nn.Conv2d(below, maps, kernel_size, stride, padding=kernel_size // 2)
        blocks.append(Block(convolution, nn.ReLU(inplace=True), dropout=drop))
        below, height, width, drop = maps, -(-height // stride), -(-width // stride), dropout
    return Stack(blocks, Block(nn.Linear(below * height * width, classes), dropout=drop), image_shape)
