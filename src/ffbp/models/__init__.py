"""Networks as stacks of layers, which any algorithm can train."""

from ffbp.models.cnn import cnn
from ffbp.models.conv import conv, local
from ffbp.models.mlp import mlp
from ffbp.models.stack import Block, Stack

__all__ = ["Block", "Stack", "cnn", "conv", "local", "mlp"]
