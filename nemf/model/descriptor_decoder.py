"""Descriptors at any real coordinate of an image, decoded from the features of the four cells round it.

After ImCorr (arXiv 2609.29193), its equations 5 to 10. Features live on a grid, and so does everything that compares
them; this network makes the descriptors themselves continuous. For a point and each of the four cells round it:

    d = point - cell, in cells; gain, bias = MLP(d)
    z = code of the cell, a 1x1 convolution of its features
    f = Linear(ReLU(Linear(ReLU((1 + gain) * z + bias))))

The four f are summed by the bilinear weights of their cells, the areas of the opposite corners; the cells' own
features, interpolated bilinearly, are added, and a linear layer makes the descriptor.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nemf.coordinates import pixel_grid, rescale_px
from nemf.model.quadrilinear import weighted_rows

DENSITY = 4
"""Decoded cells a side of a cell, where all of an image is decoded; the authors found eight worse than four."""

Size = tuple[int, int]


class Around(NamedTuple):
    """The four cells round each point: upper left, upper right, lower left, lower right."""

    cell: Int64[Tensor, "n 4"]
    """Index of the cell, row by row."""
    offset: Float[Tensor, "n 4 2"]
    """(x, y) of the point from the cell's centre, in cells, within -1..1."""
    weight: Float[Tensor, "n 4"]
    """Bilinear weight; four of them sum to 1."""


def around(xy_cells: Float[Tensor, "n 2"], hw: Size) -> Around:
    """The cells round points (x, y) of a grid, whose cells' centres are whole numbers; points beyond the centres of the
    outermost cells are taken to the nearest place between them."""
    last = xy_cells.new_tensor([hw[1] - 1, hw[0] - 1])
    xy = xy_cells.clamp(min=0).minimum(last)
    low = xy.floor().minimum((last - 1).clamp(min=0))
    corner = low[:, None] + xy.new_tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    offset = xy[:, None] - corner
    column, row = corner.minimum(last).long().unbind(-1)
    return Around(row * hw[1] + column, offset, (1 - offset.abs()).prod(dim=-1))


class DescriptorDecoder(nn.Module):
    """Decodes descriptors of `n_features` channels from maps of as many; `channels` is the width inside.

    At first it is bilinear interpolation of the map: the last layer of f gives 0, and the last layer of all passes on.
    """

    def __init__(self, n_features: int, channels: int) -> None:
        super().__init__()
        self.code = nn.Conv2d(n_features, channels, 1)
        self.modulation = nn.Sequential(nn.Linear(2, channels), nn.ReLU(), nn.Linear(channels, 2 * channels))
        self.hidden = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, n_features)
        self.descriptor = nn.Linear(n_features, n_features)
        for layer in (self.output, self.descriptor):
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.output.weight)
        nn.init.eye_(self.descriptor.weight)

    def forward(
        self, features: Float[Tensor, "b c h w"], image: Int64[Tensor, " n"], xy_cells: Float[Tensor, "n 2"]
    ) -> Float[Tensor, "n c"]:
        """The descriptors, of any length, of points (x, y) in cells of the map that `image` tells, 0 <= image < b."""
        hw = (features.shape[2], features.shape[3])
        cells = around(xy_cells, hw)
        row = image[:, None] * (hw[0] * hw[1]) + cells.cell
        gain, bias = self.modulation(cells.offset).chunk(2, dim=-1)
        return self._decode(_rows(self.code(features))[row], gain, bias, _rows(features), row, cells.weight)

    def grid(self, features: Float[Tensor, "b c h w"], density: int = DENSITY) -> Float[Tensor, "b c hd wd"]:
        """The descriptors at the centres of the cells `density` times smaller that tile the same images.

        They lie in few places round their cells, so that the modulation is computed once for each place.
        """
        batch, _, height, width = features.shape
        dense_hw = (density * height, density * width)
        grid = pixel_grid(dense_hw).to(features).view(-1, 2)
        cells = around(rescale_px(grid, dense_hw, (height, width)), (height, width))
        offset, place = cells.offset.view(-1, 2).unique(dim=0, return_inverse=True)
        gain, bias = self.modulation(offset)[place.view(-1, 4)].chunk(2, dim=-1)
        code, rows = self.code(features), _rows(features)
        maps = []
        for number in range(batch):  # all at once would take gigabytes
            codes = _rows(code[number : number + 1])[cells.cell]
            row = cells.cell + number * height * width
            maps.append(self._decode(codes, gain, bias, rows, row, cells.weight).T.unflatten(1, dense_hw))
        return torch.stack(maps)

    def _decode(
        self,
        code: Float[Tensor, "n 4 k"],
        gain: Float[Tensor, "n 4 k"],
        bias: Float[Tensor, "n 4 k"],
        rows: Float[Tensor, "cells c"],
        row: Int64[Tensor, "n 4"],
        weight: Float[Tensor, "n 4"],
    ) -> Float[Tensor, "n c"]:
        """The descriptors. The last layer of f comes after the sum: it is linear, and the weights sum to 1."""
        hidden = self.hidden(torch.relu(torch.addcmul(bias, 1 + gain, code))).relu()
        decoded = self.output((hidden * weight[..., None]).sum(dim=1))
        return self.descriptor(decoded + weighted_rows(rows, row, weight.to(rows)))


def _rows(maps: Float[Tensor, "b c h w"]) -> Float[Tensor, "cells c"]:
    """The maps' cells, row by row, one image after the other."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
