"""The cost features of one pair of images, computed only where matching reads them.

nemf.model.field.Field.cost_features is the definition, which training runs: it convolves every query cell with every
reference cell. Here the features of some query cells are computed against all reference cells, a fixed number of query
cells at a time, since kernels round differently by shape.
"""

import functools
import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from nemf.model.field import Field
from nemf.model.quadrilinear import corners

POINTS_AT_ONCE = 16
"""Query points whose cost features are computed together, padded."""
_CELLS_AT_ONCE = 4 * POINTS_AT_ONCE
_NORM_CELLS = 16
"""The normalisation's mean and variance are those of the cells in every n-th row and column of either image, of at most
so many of each. For the published network these are all cells; for nemf-small every third one, which moved 0.2 % of
4,471 points by more than half a pixel, and PCK by less than 0.07, on Animal-Pose's validation images."""


class PairCosts:
    """Reads the cost features of one pair of images.

    volume: what the field's embedding convolves (Field.volume); read fastest where the query axis is the outermost.
    """

    @torch.no_grad()
    def __init__(self, field: Field, volume: Float[Tensor, "n r q"]) -> None:
        self._side = math.isqrt(volume.shape[2])
        self._by_query = volume.permute(2, 0, 1).contiguous()
        self._n_features = field.n_cost_features
        conv, norm = field.embedding.conv, field.embedding.norm
        self._on_reference = conv.over_source.weight.flatten(1)
        self._on_query = conv.over_target.weight.flatten(2).transpose(1, 2).flatten(1)
        assert conv.over_source.bias is not None
        assert conv.over_target.bias is not None
        self._bias = conv.over_source.bias + conv.over_target.bias
        mean, variance = self._moments(norm.num_groups)
        scale = norm.weight / (variance + norm.eps).sqrt().to(norm.weight)
        self._bias = (self._bias - mean.to(scale)) * scale + norm.bias
        self._on_reference = self._on_reference * scale[:, None]
        self._on_query = self._on_query * scale[:, None]

    @torch.no_grad()
    def at_points(self, query_xy_norm: Float[Tensor, "k 2"]) -> Float[Tensor, "r k c"]:
        """The features of POINTS_AT_ONCE query points and every reference cell, bilinear in the query."""
        assert len(query_xy_norm) == POINTS_AT_ONCE
        cell, weight = corners(query_xy_norm, (self._side, self._side))
        features = self._at_cells(cell.flatten()).view(POINTS_AT_ONCE, 4, -1)
        at_points = torch.bmm(weight[:, None], features).view(POINTS_AT_ONCE, self._n_features, -1)
        return at_points.permute(2, 0, 1).contiguous()

    @torch.no_grad()
    def volume(self) -> Float[Tensor, "q r c"]:
        """The features of every query cell and every reference cell."""
        n_cells, _, n_reference = self._by_query.shape
        volume = self._by_query.new_empty(n_cells, n_reference, self._n_features)
        for first in range(0, n_cells, _CELLS_AT_ONCE):
            cells = torch.arange(first, min(first + _CELLS_AT_ONCE, n_cells), device=volume.device)
            volume[first : first + len(cells)] = self._at_cells(_filled(cells))[: len(cells)].transpose(1, 2)
        return volume

    def _at_cells(self, cells: Int64[Tensor, " n"]) -> Float[Tensor, "n c r"]:
        """The features of _CELLS_AT_ONCE query cells."""
        embedded = self._convolved(cells).relu_()
        if embedded.shape[1] == self._n_features:
            return embedded
        return torch.cat([embedded, self._by_query[cells, -1:]], dim=1)

    def _convolved(
        self, cells: Int64[Tensor, " n"], every: Float[Tensor, "q channel r"] | None = None, step: int = 1
    ) -> Float[Tensor, "n c r"]:
        """The embedding's convolution at _CELLS_AT_ONCE query cells: over the reference axes and over the query axes,
        as weighted sums of the cells around each.

        step, every: only every so many rows and columns of the reference, and the volume at these.
        """
        side = self._side
        padded = F.pad(self._by_query[cells].unflatten(2, (side, side)), (1, 1, 1, 1))
        shifts = [padded[:, :, y : y + side : step, x : x + side : step] for y in range(3) for x in range(3)]
        over_reference = torch.stack(shifts, dim=2).flatten(3).flatten(1, 2)
        around, inside = _around(side, cells.device)
        volume = self._by_query if every is None else every
        over_query = volume.index_select(0, around[cells].flatten()).view_as(over_reference)
        on_query = self._on_query * inside[cells].repeat_interleave(padded.shape[1], dim=1)[:, None]
        on_reference = self._on_reference.expand(len(cells), -1, -1)
        bias = self._bias[:, None].expand(len(cells), -1, over_reference.shape[2])
        return torch.baddbmm(torch.baddbmm(bias, on_reference, over_reference), on_query, over_query)

    def _moments(self, groups: int) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """Mean and variance of each channel's group of channels, for the normalisation."""
        hw = (self._side, self._side)
        step = math.ceil(self._side / _NORM_CELLS)
        grid = torch.arange(self._side**2, device=self._by_query.device).view(hw)
        every = self._by_query.unflatten(2, hw)[:, :, ::step, ::step].flatten(2)
        chunks = grid[::step, ::step].flatten().split(_CELLS_AT_ONCE)
        convolved = [self._convolved(_filled(cells), every, step)[: len(cells)] for cells in chunks]
        count = sum(part[:, 0].numel() for part in convolved) * len(self._bias) // groups
        mean, mean_square = (
            torch.stack(sums).double().sum(dim=0).view(groups, -1).sum(dim=1) / count
            for sums in (
                [part.sum(dim=(0, 2)) for part in convolved],
                [part.square().sum(dim=(0, 2)) for part in convolved],
            )
        )
        variance = (mean_square - mean.square()).clamp(min=0)
        per_group = len(self._bias) // groups
        return mean.repeat_interleave(per_group), variance.repeat_interleave(per_group)


def _filled(cells: Int64[Tensor, " n"]) -> Int64[Tensor, " m"]:
    """The cells, filled up to _CELLS_AT_ONCE with the first one of the image."""
    return F.pad(cells, (0, _CELLS_AT_ONCE - len(cells)))


@functools.lru_cache(maxsize=8)
def _around(side: int, device: torch.device) -> tuple[Int64[Tensor, "q 9"], Bool[Tensor, "q 9"]]:
    """The 3 x 3 cells around each of side x side cells, row by row, and which of them are inside."""
    steps = torch.tensor([-1, 0, 1], device=device)
    position = torch.arange(side, device=device)[:, None] + steps
    inside = (position >= 0) & (position < side)
    position = position.clamp(0, side - 1)
    cells = position[:, None, :, None] * side + position[None, :, None, :]
    both_inside = inside[:, None, :, None] & inside[None, :, None, :]
    return cells.reshape(side**2, 9), both_inside.reshape(side**2, 9)
