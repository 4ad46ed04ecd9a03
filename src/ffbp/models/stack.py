"""A model is a stack of layers with a head; what trains it is somebody else's business."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ffbp.models.local_layer import LocalConv2d


class Block(nn.Module):
    """One layer: dropout on its input, an affine product, then what follows (batch norm, activation, pooling).

    The parts can be called apart, for a rule that wants the product alone.

    Args:
        affine: a dense layer, a convolution, or one without shared weights.
        after: modules applied to its product, in order.
        dropout: the share of inputs that are dropped in training.
    """

    def __init__(self, affine: nn.Linear | nn.Conv2d | LocalConv2d, *after: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.affine = affine
        self.after = nn.Sequential(*after)

    @property
    def dense(self) -> bool:
        """Whether each unit sees the whole input."""
        return isinstance(self.affine, nn.Linear)

    def product(self, x: Tensor) -> Tensor:
        """Multiply by the weights and add the biases; images and maps in front of a dense layer are flattened."""
        product: Tensor = self.affine(x.flatten(1) if self.dense else x)
        return product

    def forward(self, x: Tensor) -> Tensor:
        activity: Tensor = self.after(self.product(self.dropout(x)))
        return activity


class Stack(nn.Module):
    """Blocks one upon the other and a head: images (B, C, H, W) to logits (B, classes).

    Args:
        blocks: the layers, first to last.
        head: from the last layer's activity, flattened, to the logits.
        image_shape: channels, height and width of an image.
    """

    def __init__(self, blocks: Sequence[Block], head: Block, image_shape: Sequence[int]) -> None:
        super().__init__()
        self.blocks = cast(list[Block], nn.ModuleList(blocks))
        self.head: Block | None = head  # an algorithm with a read-out of its own takes it off
        self.classes = head.affine.weight.shape[0]
        self.image_shape = tuple(image_shape)

    def forward(self, images: Tensor) -> Tensor:
        activity = images
        for block in self.blocks:
            activity = block(activity)
        assert self.head is not None
        logits: Tensor = self.head(activity)  # (B, classes)
        return logits

    def widen(self, channels: int) -> None:
        """Let the first layer, a convolution, take `channels` more input channels; its weights are drawn anew.

        Raises:
            ValueError: if it is no convolution.
        """
        first = self.blocks[0]
        old = first.affine
        if not isinstance(old, nn.Conv2d):
            raise ValueError("needs a model whose first layer is a convolution")
        kernel, stride, padding = (cast(tuple[int, int], at) for at in (old.kernel_size, old.stride, old.padding))
        first.affine = nn.Conv2d(old.in_channels + channels, old.out_channels, kernel, stride, padding)

    def activity_shapes(self) -> list[tuple[int, ...]]:
        """The shape of each block's activity for one image, first to last: (D,) or (C, H, W)."""
        shapes, training = [], self.training
        self.eval()
        with torch.no_grad():
            activity = torch.zeros(1, *self.image_shape)
            for block in self.blocks:
                activity = block(activity)
                shapes.append(tuple(activity.shape[1:]))
        self.train(training)
        return shapes

    def unit_shapes(self) -> list[tuple[int, ...]]:
        """As `activity_shapes`, but (C, 1, 1) where all positions share a unit's weights."""
        return [
            (shape[0], 1, 1) if isinstance(block.affine, nn.Conv2d) else shape
            for block, shape in zip(self.blocks, self.activity_shapes(), strict=True)
        ]
