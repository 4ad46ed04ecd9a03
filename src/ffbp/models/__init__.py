"""Networks as stacks of layers. They know no algorithm: any algorithm trains any of them."""

from ffbp.models.cnn import cnn
from ffbp.models.conv import conv
from ffbp.models.local import local
from ffbp.models.mlp import mlp
from ffbp.models.stack import Block, Stack

__all__ = ["Block", "Stack", "cnn", "conv", "local", "mlp"]
