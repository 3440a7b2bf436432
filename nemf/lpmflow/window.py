"""Attention within windows of a map, and the upsampling of tokens that is made of it."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nemf.model.attention import Attention, Mlp

Map = Float[Tensor, "b c h w"]

_REDUCTION = 16
"""How much narrower the hidden layer of a channel gate is."""
UPSAMPLER_WINDOW = 4


class WindowBlock(nn.Module):
    """A transformer block within windows that tile the map; the block's normalised output is added to its input.

    window: side of the windows, in cells; the map's sides must be multiples of it.
    """

    index: Tensor

    def __init__(self, dim: int, window: int, heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.window = window
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.attention = Attention(dim, heads)
        self.bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = Mlp(dim, mlp_ratio * dim)
        self.norm_out = nn.LayerNorm(dim, eps=1e-5)
        self.register_buffer("index", window_index(window), persistent=False)

    def forward(self, cells: Map) -> Map:
        """The map after this block."""
        b, _, h, w = cells.shape
        n = self.window
        tiles = cells.unflatten(2, (h // n, n)).unflatten(4, (w // n, n))
        tokens = tiles.permute(0, 2, 4, 3, 5, 1).reshape(b * (h // n) * (w // n), n * n, -1)
        bias = self.bias_table[self.index].permute(2, 0, 1)
        refined = tokens + self.attention(self.norm1(tokens), bias)
        refined = refined + self.mlp(self.norm2(refined))
        tokens = tokens + self.norm_out(refined)
        tiles = tokens.view(b, h // n, w // n, n, n, -1).permute(0, 5, 1, 3, 2, 4)
        return tiles.reshape(b, -1, h, w)


def window_index(window: int) -> Int64[Tensor, "n n"]:
    """The row of the bias table for each query and key of a window, (2 window - 1) (dy + window - 1) + dx + window - 1
    with the offset (dx, dy) = query - key."""
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"))
    return (2 * window - 1) * (y[:, None] - y + window - 1) + x[:, None] - x + window - 1


class ChannelGate(nn.Module):
    """Makes each channel up to twice as great, by what its mean and its maximum over the map say."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // _REDUCTION, 1)
        self.fc1 = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fc2 = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, cells: Map) -> Map:
        """The map with its channels scaled by 1 to 2."""
        pooled = [F.adaptive_avg_pool2d(cells, 1), F.adaptive_max_pool2d(cells, 1)]
        mean, greatest = (self.fc2(F.relu(self.fc1(one))) for one in pooled)
        return cells * (1 + torch.sigmoid(mean + greatest))


class Upsampler(nn.Module):
    """Tokens at twice as many cells a side: bilinear, then window blocks with channel gates, if there are any."""

    def __init__(self, dim: int, heads: int, n_blocks: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(WindowBlock(dim, UPSAMPLER_WINDOW, heads, mlp_ratio), ChannelGate(dim))
            for _ in range(n_blocks)
        )

    def forward(self, tokens: Float[Tensor, "b token dim"]) -> Float[Tensor, "b finer dim"]:
        """The token of the image as it is, and four for each cell."""
        cells = as_map(tokens)
        cells = F.interpolate(cells, scale_factor=2, mode="bilinear", align_corners=False)
        for block in self.blocks:
            cells = block(cells)
        return torch.cat([tokens[:, :1], cells.flatten(2).transpose(1, 2)], dim=1)


def as_map(tokens: Float[Tensor, "b token dim"]) -> Float[Tensor, "b dim side side"]:
    """The tokens of the cells as a square map, without that of the image."""
    side = math.isqrt(tokens.shape[1] - 1)
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side))
