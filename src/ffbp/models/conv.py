"""A convolutional network of any size whose windows are wide enough to see a label."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import nn

from ffbp.errors import ConfigError
from ffbp.models.stack import Block, Stack
from ffbp.settings import Count, Probability, checked

Counts = Annotated[list[Count], Field(min_length=1)]


@checked
def conv(
    *,
    image_shape: Sequence[int],
    classes: int,
    channels: Counts,
    kernel_sizes: Counts,
    pools: Counts,
    input_dropout: Probability,
    dropout: Probability,
) -> Stack:
    """Build convolutions that keep the size of their maps, each with a max pooling after it, and a head.

    Args:
        image_shape: channels, height and width of an image.
        classes: how many logits.
        channels: maps of each layer.
        kernel_sizes: height and width of each layer's windows, odd.
        pools: height and width over which each layer's maps are pooled; 1 for no pooling.
        input_dropout: share of the pixels dropped in training.
        dropout: share of each hidden layer's activities dropped in training.
    """
    if not len(channels) == len(kernel_sizes) == len(pools):
        raise ConfigError("model.channels, kernel_sizes and pools: as many of each expected.")
    if any(size % 2 == 0 for size in kernel_sizes):
        raise ConfigError(f"model.kernel_sizes={kernel_sizes}: odd numbers expected, so that a window has a middle.")
    blocks = []
    below, height, width = image_shape
    drop = input_dropout
    for maps, kernel_size, pool in zip(channels, kernel_sizes, pools, strict=True):
        pooling = [nn.MaxPool2d(pool)] if pool > 1 else []
        convolution = nn.Conv2d(below, maps, kernel_size, padding=kernel_size // 2)
        blocks.append(Block(convolution, nn.ReLU(inplace=True), *pooling, dropout=drop))
        below, height, width, drop = maps, height // pool, width // pool, dropout
        if min(height, width) < 1:
            raise ConfigError(f"model.pools={pools}: nothing is left of {image_shape[1]} x {image_shape[2]} pixels.")
    return Stack(blocks, Block(nn.Linear(below * height * width, classes), dropout=drop), image_shape)
