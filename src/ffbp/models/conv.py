"""Convolutional networks of any size: with shared weights, or with weights of their own at each position."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from ffbp.errors import ConfigError
from ffbp.models.batch_norm import BatchNorm
from ffbp.models.local_layer import LocalConv2d
from ffbp.models.stack import Block, Stack
from ffbp.settings import Count, Counts, Probability, checked


@checked
def conv(
    *,
    image_shape: Sequence[int],
    classes: int,
    channels: Counts,
    kernel_sizes: Counts,
    strides: Counts,
    pools: Counts | None,
    input_dropout: Probability,
    dropout: Probability,
    batch_norm: bool = False,
    widths: list[Count] | None = None,
    shared_weights: bool = True,
) -> Stack:
    """Build convolutions with strides or pooling; the windows are wide enough to see an embedded label.

    Args:
        image_shape, classes, input_dropout, dropout: those of `mlp`.
        channels: maps of each layer.
        kernel_sizes: height and width of each layer's windows, odd.
        strides: of each layer's windows; 2 halves the maps.
        pools: height and width of the windows of each layer's max pooling, which halves the maps: even, above 2 they
            overlap; 1 for no pooling in a layer, None for none in any.
        batch_norm: normalise each product over the batch and its positions, before the activation.
        widths: units of each dense layer that follows the convolutions; None for no such layer.
        shared_weights: False for the layers of `local`.

    Raises:
        ConfigError: if the lists differ in length, a kernel size is even, or a pool is neither even nor 1.

    Source: of the strides, Springenberg et al. 2015 (arXiv:1412.6806).
    """
    pools = [1] * len(channels) if pools is None else pools
    if not len(channels) == len(kernel_sizes) == len(strides) == len(pools):
        raise ConfigError("model.channels, kernel_sizes, strides and pools: lists of equal length expected.")
    if any(pool % 2 and pool > 1 for pool in pools):
        raise ConfigError(f"model.pools={pools}: even numbers expected, or 1 for no pooling.")
    if shared_weights and any(size % 2 == 0 for size in kernel_sizes):
        raise ConfigError(f"model.kernel_sizes={kernel_sizes}: odd numbers expected, so that a window has a middle.")
    blocks = []
    (below, height, width), drop = image_shape, input_dropout
    for maps, size, stride, pool in zip(channels, kernel_sizes, strides, pools, strict=True):
        affine: nn.Conv2d | LocalConv2d
        if shared_weights:
            affine = nn.Conv2d(below, maps, size, stride, padding=size // 2)
            height, width = (height - 1) // stride + 1, (width - 1) // stride + 1
        else:
            try:
                affine = LocalConv2d(below, maps, (height, width), kernel_size=size, stride=stride)
            except ValueError as error:
                advice = "take smaller kernel_sizes or strides"
                raise ConfigError(f"model.kernel_sizes={kernel_sizes}: {error}; {advice}.") from error
            height, width = affine.grid
        pooling = []
        if pool > 1:
            if min(height, width) < 2:
                raise ConfigError(f"model.pools={pools}: maps of {height} x {width} cannot be halved.")
            pooling = [nn.MaxPool2d(pool, stride=2, padding=pool // 2 - 1)]
            height, width = height // 2, width // 2
        norm = [BatchNorm(maps)] if batch_norm else []
        blocks.append(Block(affine, *norm, nn.ReLU(inplace=True), *pooling, dropout=drop))
        below, drop = maps, dropout
    inputs = below * height * width
    for units in widths or []:
        norm = [BatchNorm(units)] if batch_norm else []
        blocks.append(Block(nn.Linear(inputs, units), *norm, nn.ReLU(inplace=True), dropout=drop))
        inputs, drop = units, dropout
    return Stack(blocks, image_shape=image_shape, classes=classes, dropout=dropout)


def local(**settings: Any) -> Stack:
    """Build layers of local receptive fields, in which each position has weights of its own.

    The settings are those of `conv`, but the fields are not padded and may be of even size. The defaults are Hinton's:
    128 units at each of 4 x 4 positions, 220 at 3 x 3, 512 at 2 x 2, about 2,000 in a layer.

    Source: Hinton 2022, section 3.2.
    """
    return conv(shared_weights=False, pools=None, **settings)
