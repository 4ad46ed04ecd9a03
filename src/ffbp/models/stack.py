"""A model is a stack of layers with a head. It does not depend on the rule that trains it."""

import math
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from ffbp.models.dropout import Dropout
from ffbp.models.local_layer import LocalConv2d


class Block(nn.Module):
    """One layer: dropout on its input, an affine product, then for instance batch norm, activation and pooling.

    A learning rule may call the parts one by one.

    Args:
        affine: a dense layer, a convolution, or local receptive fields without weight sharing.
        after: modules applied to the product, in order.
        dropout: probability that an input is dropped in training.
    """

    def __init__(self, affine: nn.Linear | nn.Conv2d | LocalConv2d, *after: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout, self.affine, self.after = Dropout(dropout), affine, nn.Sequential(*after)
        # PyTorch's max pooling on a CPU takes several channels at once where a position's are side by side in memory
        self.wants_channels_last = any(isinstance(module, nn.MaxPool2d) for module in after)

    @property
    def dense(self) -> bool:
        """Whether each unit is connected to the whole input."""
        return isinstance(self.affine, nn.Linear)

    def product(self, x: Tensor) -> Tensor:
        """Multiply by the weights and add the biases; a dense layer flattens its input."""
        if self.wants_channels_last and x.device.type == "cpu":
            x = channels_last(x)
        return cast(Tensor, self.affine(x.flatten(1) if self.dense else x))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.after(self.product(self.dropout(x))))

    def pull(self, x: Tensor, delta: Tensor) -> dict[nn.Parameter, Tensor]:
        """Compute the gradients of weight and bias from an error at the product: delta times input.

        Args:
            x: input of the product, after dropout, shape (B, ...).
            delta: error at the product, shape (B, units) or (B, C, H, W).

        Returns:
            gradients by parameter, summed over the batch and over the positions that share weights.
        """
        affine = self.affine
        if isinstance(affine, LocalConv2d):
            weight, bias = affine.pull(x, delta)
        elif isinstance(affine, nn.Conv2d):
            window = affine.stride, affine.padding
            weight = conv2d_weight(x, affine.weight.shape, delta.to(x.dtype), *window)  # type: ignore[no-untyped-call]
            bias = delta.sum((0, 2, 3))
        else:
            weight, bias = delta.T @ x.flatten(1), delta.sum(0)
        return dict(zip(affine.parameters(), (weight, bias), strict=True))  # in PyTorch's order

    def send_back(self, delta: Tensor, shape: Sequence[int], weight: Tensor | None = None) -> Tensor:
        """The error at the input of the product, of shape `shape`, from that at the product: the weights transposed.

        `weight` may stand in for the block's own.
        """
        affine = self.affine
        weight = (affine.weight if weight is None else weight).to(delta.dtype)
        if isinstance(affine, LocalConv2d):
            return affine.send_back(delta, shape, weight)
        if isinstance(affine, nn.Conv2d):
            window = affine.stride, affine.padding
            return cast(Tensor, conv2d_input(shape, weight, delta, *window))  # type: ignore[no-untyped-call]
        return (delta @ weight).view(*shape)


def channels_last(maps: Tensor) -> Tensor:
    """The same maps (B, C, H, W) with each position's channels side by side in memory."""
    if maps.shape[1] > 1:
        return maps.contiguous(memory_format=torch.channels_last)
    # one channel is contiguous either way: these strides say which
    return maps.reshape(maps.shape[0], *maps.shape[2:], 1).movedim(-1, 1)


class Stack(nn.Module):
    """Blocks one after the other, then a head: images (B, C, H, W) to logits (B, classes).

    Args:
        blocks: the layers, first to last.
        image_shape: channels, height and width of an image.
        classes: how many logits.
        dropout: probability that an input of the head is dropped in training.
        with_head: False for a rule with read-outs of its own; `head` is then None.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        *,
        image_shape: Sequence[int],
        classes: int,
        dropout: float = 0.0,
        with_head: bool = True,
    ) -> None:
        super().__init__()
        self.blocks = cast(list[Block], nn.ModuleList(blocks))
        self.image_shape, self.classes, self.head_dropout = tuple(image_shape), classes, dropout
        self.input_shape = self.image_shape  # what the first layer takes, see `widen`
        self.head = cast(Block, self.make_head() if with_head else None)

    def forward(self, images: Tensor) -> Tensor:
        activity = images
        for block in self.blocks:
            activity = block(activity)
        return cast(Tensor, self.head(activity))

    def as_images(self, images: Tensor) -> Tensor:
        """Bring images into shape (N, C, H, W); a ValueError if that cannot be.

        One image may come by itself, (C, H, W), and one-channel images without their channel, (N, H, W) or (H, W).
        """
        given, wanted = tuple(images.shape), self.image_shape
        if given == wanted or (wanted[0] == 1 and given == wanted[1:]):
            images = images.reshape(1, *wanted)
        elif wanted[0] == 1 and given[1:] == wanted[1:]:
            images = images.unsqueeze(1)
        if tuple(images.shape[1:]) != wanted:
            raise ValueError(f"images of shape (N, {', '.join(map(str, wanted))}) expected, {given} found")
        return images

    def as_input(self, images: Tensor) -> Tensor:
        """Bring images, uint8 or floats in [0, 1], into floats of shape (N, C, H, W), see `as_images`.

        Raises:
            ValueError: if the shape, the type or the range does not fit.
        """
        images = self.as_images(images)
        if images.dtype == torch.uint8:
            return images.float() / 255
        if not images.is_floating_point():
            raise ValueError(f"uint8 images, or floats in [0, 1] expected, {images.dtype} found".replace("torch.", ""))
        if len(images) and not (images.min() >= 0 and images.max() <= 1):  # true for NaN as well
            raise ValueError("uint8 images, or floats in [0, 1] expected")
        return images

    def activities(self, images: Tensor, *, local: bool = False) -> Iterator[Tensor]:
        """Yield each block's activity, first to last, shape (B, D) or (B, C, H, W).

        Args:
            images: shape (B, C, H, W).
            local: detach each block's input, so that no gradient flows from one block to another.
        """
        activity = images
        for block in self.blocks:
            activity = block(activity.detach() if local else activity)
            yield activity

    def make_head(self, features: int | None = None, dropout: float | None = None) -> Block:
        """Make a linear read-out that gives the logits.

        Its input has `features` numbers, by default those of the last block; its `dropout` is by default the model's.
        """
        features = math.prod(self.activity_shapes()[-1]) if features is None else features
        return Block(nn.Linear(features, self.classes), dropout=self.head_dropout if dropout is None else dropout)

    def without_head(self) -> "Stack":
        """The same blocks, for a rule with read-outs of its own."""
        stack = Stack(
            self.blocks,
            image_shape=self.image_shape,
            classes=self.classes,
            dropout=self.head_dropout,
            with_head=False,
        )
        stack.input_shape = self.input_shape
        return stack

    def widen(self, channels: int) -> None:
        """Give the first layer `channels` more input channels and new weights; a ValueError if it is no convolution."""
        old = self.blocks[0].affine
        if not isinstance(old, nn.Conv2d):
            raise ValueError("needs a model whose first layer is a convolution")
        kernel, stride, padding = (cast(tuple[int, int], value) for value in (old.kernel_size, old.stride, old.padding))
        self.blocks[0].affine = nn.Conv2d(old.in_channels + channels, old.out_channels, kernel, stride, padding)
        self.input_shape = (old.in_channels + channels, *self.image_shape[1:])

    def activity_shapes(self) -> list[tuple[int, ...]]:
        """The shape of each block's activity for one image, first to last: (D,) or (C, H, W)."""
        training = self.training
        self.eval()
        with torch.no_grad():
            shapes = [tuple(activity.shape[1:]) for activity in self.activities(torch.zeros(1, *self.input_shape))]
        self.train(training)
        return shapes

    def unit_shapes(self) -> list[tuple[int, ...]]:
        """As `activity_shapes`, but (C, 1, 1) for a convolution, whose units share weights over all positions."""
        shapes = zip(self.blocks, self.activity_shapes(), strict=True)
        return [(shape[0], 1, 1) if isinstance(block.affine, nn.Conv2d) else shape for block, shape in shapes]
