"""A layer of local receptive fields that share no weights."""

import math

import torch
from torch import Tensor, nn


class LocalConv2d(nn.Module):
    """A convolution whose every position has weights of its own.

    Args:
        in_channels: of the maps below.
        out_channels: units at each position.
        side: height and width of the maps below.
        kernel_size: height and width of a receptive field.
        stride: between neighbouring fields.

    Raises:
        ValueError: if not even one field fits.
    """

    def __init__(
        self, in_channels: int, out_channels: int, side: tuple[int, int], *, kernel_size: int, stride: int
    ) -> None:
        super().__init__()
        if kernel_size > min(side):
            raise ValueError(f"a field of {kernel_size} x {kernel_size} does not fit into {side[0]} x {side[1]}")
        self.kernel_size, self.stride = kernel_size, stride
        rows, columns = ((length - kernel_size) // stride + 1 for length in side)
        self.grid = (rows, columns)
        positions, inputs = math.prod(self.grid), in_channels * kernel_size**2
        bound = 1 / math.sqrt(inputs)  # as PyTorch's own layers
        self.weight = nn.Parameter(torch.empty(positions, inputs, out_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(positions, 1, out_channels).uniform_(-bound, bound))

    def forward(self, maps: Tensor) -> Tensor:
        """Multiply maps (B, C, H, W) field by field: (B, out_channels, rows, columns).

        The channels of a place lie side by side in memory, here as in the maps above, so that fields are cut out in
        long runs.
        """
        positions, inputs, units = self.weight.shape
        fields = maps.unfold(2, self.kernel_size, self.stride).unfold(3, self.kernel_size, self.stride)
        fields = fields.permute(2, 3, 0, 4, 5, 1).reshape(positions, len(maps), inputs)
        product = torch.baddbmm(self.bias, fields, self.weight)  # (positions, B, units)
        product = product.transpose(0, 1).contiguous()  # (B, positions, units)
        return product.view(len(maps), *self.grid, units).permute(0, 3, 1, 2)
