"""The convolutional network of the article that this project started from, see README.md."""

from collections.abc import Sequence

from torch import nn

from ffbp.errors import ConfigError
from ffbp.models.batch_norm import BatchNorm
from ffbp.models.stack import Block, Stack
from ffbp.settings import Probability, checked


@checked
def cnn(*, image_shape: Sequence[int], classes: int, batch_norm: bool, dropout: Probability) -> Stack:
    """Build three 3x3 convolutions without padding, a dense layer and a head: 93,322 parameters on MNIST.

    Args:
        image_shape, classes: those of `mlp`; an image has at least 18 x 18 pixels.
        batch_norm: normalise each product over the batch, a map over its positions too, before the activation.
        dropout: probability that an input of the dense layer or of the head is dropped in training.
    """
    channels, height, width = image_shape
    if min(height, width) < 18:
        raise ConfigError(f"model=cnn: images of at least 18 x 18 pixels expected, {height} x {width} found.")
    rows, columns = (((side - 2) // 2 - 2) // 2 - 2 for side in (height, width))  # 28 -> 26 -> 13 -> 11 -> 5 -> 3

    def after(units: int) -> list[nn.Module]:
        return [*([BatchNorm(units)] if batch_norm else []), nn.ReLU(inplace=True)]

    blocks = [
        Block(nn.Conv2d(channels, 32, 3), *after(32), nn.MaxPool2d(2)),  # (B, 32, 13, 13)
        Block(nn.Conv2d(32, 64, 3), *after(64), nn.MaxPool2d(2)),  # (B, 64, 5, 5)
        Block(nn.Conv2d(64, 64, 3), *after(64)),  # (B, 64, 3, 3)
        Block(nn.Linear(64 * rows * columns, 64), *after(64), dropout=dropout),  # (B, 64)
    ]
    return Stack(blocks, image_shape=image_shape, classes=classes, dropout=dropout)
