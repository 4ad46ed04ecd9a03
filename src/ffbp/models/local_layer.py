"""A layer of local receptive fields that share no weights."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LocalConv2d(nn.Module):
    """A convolution in which every position has weights of its own.

    Args:
        in_channels, out_channels, kernel_size, stride: as of `nn.Conv2d`, without padding.
        side: height and width of the input maps.

    Raises:
        ValueError: if not even one field fits.
    """

    def __init__(
        self, in_channels: int, out_channels: int, side: tuple[int, int], *, kernel_size: int, stride: int
    ) -> None:
        super().__init__()
        if kernel_size > min(side):
            raise ValueError(f"a field of {kernel_size} x {kernel_size} does not fit into {side[0]} x {side[1]}")
        self.in_channels, self.kernel_size, self.stride = in_channels, kernel_size, stride
        rows, columns = ((length - kernel_size) // stride + 1 for length in side)
        self.grid = (rows, columns)
        positions, inputs = rows * columns, in_channels * kernel_size**2
        bound = 1 / math.sqrt(inputs)  # as in PyTorch's own layers
        self.weight = nn.Parameter(torch.empty(positions, inputs, out_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(positions, 1, out_channels).uniform_(-bound, bound))

    def fields(self, maps: Tensor) -> Tensor:
        """Cut the receptive fields out of maps (B, C, H, W): shape (positions, B, inputs)."""
        fields = maps.unfold(2, self.kernel_size, self.stride).unfold(3, self.kernel_size, self.stride)
        # channels last, as `forward` leaves them in memory, so that long runs are copied
        return fields.permute(2, 3, 0, 4, 5, 1).reshape(self.weight.shape[0], maps.shape[0], self.weight.shape[1])

    def kernels(self) -> Tensor:
        """The weights as windows of an image: (positions * out_channels, in_channels, height, width)."""
        windows = self.weight.transpose(1, 2).reshape(-1, self.kernel_size, self.kernel_size, self.in_channels)
        return windows.permute(0, 3, 1, 2)

    def forward(self, maps: Tensor) -> Tensor:
        """Multiply maps (B, C, H, W) field by field: (B, out_channels, rows, columns)."""
        product = torch.baddbmm(self.bias, self.fields(maps), self.weight)  # (positions, B, units)
        product = product.transpose(0, 1).contiguous()  # (B, positions, units)
        return product.view(maps.shape[0], *self.grid, self.weight.shape[2]).permute(0, 3, 1, 2)

    def pull(self, maps: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of weight and bias from an error at the product (B, out_channels, rows, columns)."""
        errors = delta.flatten(2).permute(2, 0, 1)  # (positions, B, units)
        return self.fields(maps).transpose(1, 2) @ errors, errors.sum(1, keepdim=True)

    def send_back(self, delta: Tensor, shape: Sequence[int], weight: Tensor) -> Tensor:
        """The error at the maps, of shape `shape`, from that at the product (B, out_channels, rows, columns)."""
        size = self.kernel_size
        errors = delta.flatten(2).permute(2, 0, 1) @ weight.transpose(1, 2)  # (positions, B, inputs)
        fields = errors.view(*self.grid, shape[0], size, size, shape[1])
        maps = delta.new_zeros(*shape)
        for row, column in itertools.product(range(self.grid[0]), range(self.grid[1])):
            top, left = row * self.stride, column * self.stride
            maps[:, :, top : top + size, left : left + size] += fields[row, column].permute(0, 3, 1, 2)
        return maps
