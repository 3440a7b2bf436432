"""Convolution of 4D volumes, made of two 2D ones: one over the reference axes, one over the query axes.

Volumes have the axes (batch, channel, reference row, reference column, query row, query column).
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Volume = Float[Tensor, "b _ _ _ _ _"]

_MAX_DEPTHWISE_PAIRS = 16
"""Maximum number of pairs of an input and an output channel for which a convolution on a CPU is done depthwise."""


def on_reference(function: Callable[[Tensor], Tensor], volume: Volume) -> Tensor:
    """Apply a function of (n, c, h, w) maps to the reference axes, for every query cell."""
    maps = volume.permute(0, 4, 5, 1, 2, 3)
    return function(maps.flatten(0, 2)).unflatten(0, maps.shape[:3]).permute(0, 3, 4, 5, 1, 2)


def on_query(function: Callable[[Tensor], Tensor], volume: Volume) -> Tensor:
    """Apply a function of (n, c, h, w) maps to the query axes, for every reference cell."""
    maps = volume.permute(0, 2, 3, 1, 4, 5)
    return function(maps.flatten(0, 2)).unflatten(0, maps.shape[:3]).permute(0, 3, 1, 2, 4, 5)


class Conv4d(nn.Module):
    """Separable ("centre-pivot") 4D convolution, 3 cells wide; stride 1 or 2 in all four axes.

    The sum of two branches. Each convolves the axes of one image, after the axes of the other were brought to their
    new size: by max-pooling for stride 2. Checkpoints name the branches by the paper's roles: `over_source` convolves
    the reference axes, `over_target` the query axes.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.over_source = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        self.over_target = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)

    def forward(self, volume: Volume) -> Volume:
        """(b, c, hr, wr, hq, wq) to (b, c', ...), every size divided by the stride, which it must be a multiple of."""
        n_pairs = self.over_source.in_channels * self.over_source.out_channels
        if self.stride == 1 and volume.device.type == "cpu" and n_pairs <= _MAX_DEPTHWISE_PAIRS:
            over_source = _few_channels(self.over_source, volume)
            over_target = _few_channels(self.over_target, volume.permute(0, 1, 4, 5, 2, 3))
            sums = (one.add_(other.permute(0, 3, 4, 1, 2)) for one, other in zip(over_source, over_target, strict=True))
            return torch.stack(list(sums), dim=1)
        small_query, small_reference = (volume if self.stride == 1 else _max_pool(volume, row) for row in (4, 2))
        return on_reference(self.over_source, small_query) + on_query(self.over_target, small_reference)


def _few_channels(conv: nn.Conv2d, volume: Volume) -> Iterator[Float[Tensor, "b hr wr hq wq"]]:
    """The channels of `on_reference(conv, volume)`, with the query cells as channels of depthwise convolutions.

    For few channels this is four times as fast on a CPU, whose vectors so few do not fill.
    """
    assert conv.bias is not None
    cells_hw = volume.shape[4:]
    n_cells = cells_hw.numel()
    first, *others = volume.flatten(4).permute(1, 0, 4, 2, 3)
    for (first_kernel, *kernels), bias in zip(conv.weight, conv.bias, strict=True):
        convolved = _depthwise(first, first_kernel, bias.expand(n_cells))
        for maps, kernel in zip(others, kernels, strict=True):
            convolved += _depthwise(maps, kernel)
        yield convolved.permute(0, 2, 3, 1).unflatten(3, cells_hw)


def _depthwise(
    maps: Float[Tensor, "b c h w"], kernel: Float[Tensor, "3 3"], bias: Float[Tensor, " c"] | None = None
) -> Float[Tensor, "b c h w"]:
    n_channels = maps.shape[1]
    return F.conv2d(maps, kernel.expand(n_channels, 1, 3, 3), bias, padding=1, groups=n_channels)


class Pool4d(nn.Module):
    """Halves all four sizes, keeping the greatest of every 2 x 2 x 2 x 2 cells."""

    def forward(self, volume: Volume) -> Volume:
        """(b, c, hr, wr, hq, wq) to (b, c, hr / 2, ...); sizes must be even."""
        return _max_pool(_max_pool(volume, 4), 2)


class Upsample4d(nn.Module):
    """Doubles all four sizes (bilinear in the reference, then in the query; align-corners)."""

    def forward(self, volume: Volume) -> Volume:
        """(b, c, hr, wr, hq, wq) to (b, c, 2 hr, ...)."""
        return on_query(_double, on_reference(_double, volume))


def _double(maps: Tensor) -> Tensor:
    return F.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=True)


def _max_pool(volume: Volume, row: int) -> Volume:
    """The greatest of every 2 x 2 cells along axes `row` and `row` + 1, read where they lie."""
    rows = torch.maximum(*volume.unflatten(row, (-1, 2)).unbind(row + 1))
    return torch.maximum(*rows.unflatten(row + 1, (-1, 2)).unbind(row + 2))


class ConvTranspose4d(nn.Module):
    """The transposed form of Conv4d: stride 2 doubles every size, the other image's axes by bilinear upsampling."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.over_source = nn.ConvTranspose2d(in_channels, out_channels, 3, stride, 1, output_padding=stride - 1)
        self.over_target = nn.ConvTranspose2d(in_channels, out_channels, 3, stride, 1, output_padding=stride - 1)

    def forward(self, volume: Volume) -> Volume:
        """(b, c, hr, wr, hq, wq) to (b, c', ...), every size multiplied by the stride."""
        over_source = on_reference(self.over_source, on_query(self._resize, volume))
        return over_source + on_query(self.over_target, on_reference(self._resize, volume))

    def _resize(self, maps: Tensor) -> Tensor:
        return maps if self.stride == 1 else _double(maps)


class CostBlock(nn.Module):
    """4D convolution, group normalisation, ReLU."""

    def __init__(self, conv: Conv4d | ConvTranspose4d, groups: int) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.GroupNorm(groups, conv.over_source.out_channels)

    def forward(self, volume: Volume) -> Volume:
        """(b, c, hr, wr, hq, wq) to (b, c', ...), of the size the convolution gives."""
        return F.relu_(self.norm(self.conv(volume)))
