"""Interpolation of a 4D volume at pairs of points: a weighted sum of 16 corners, with no volume for each pair."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from nemf.coordinates import norm_to_px


class Corners(NamedTuple):
    """The four cells around each point: upper left, upper right, lower left, lower right."""

    cell: Int64[Tensor, "*n 4"]
    """Index of the cell, row by row; 0 for one outside the grid."""
    weight: Float[Tensor, "*n 4"]
    """Bilinear weight; 0 for a cell outside the grid."""


def corners(xy_norm: Float[Tensor, "*n 2"], hw: tuple[int, int]) -> Corners:
    """The corners of points in a grid of cells (align-corners)."""
    xy = norm_to_px(xy_norm, hw)
    (x, x_weight, _), (y, y_weight, _) = _around(xy[..., 0], hw[1]), _around(xy[..., 1], hw[0])
    cell = y[..., :, None] * hw[1] + x[..., None, :]
    return Corners(cell.flatten(-2), _outer(y_weight, x_weight))


def corner_slopes(xy_norm: Float[Tensor, "*n 2"], hw: tuple[int, int]) -> Float[Tensor, "*n 2 4"]:
    """The derivatives of the corners' weights by the points' normalised x and y."""
    xy = norm_to_px(xy_norm, hw)
    (_, x_weight, x_inside), (_, y_weight, y_inside) = _around(xy[..., 0], hw[1]), _around(xy[..., 1], hw[0])
    step = xy.new_tensor([-0.5, 0.5])
    by_x = _outer(y_weight, x_inside * (step * (hw[1] - 1)))
    by_y = _outer(y_inside * (step * (hw[0] - 1)), x_weight)
    return torch.stack([by_x, by_y], dim=-2)


def sample_quadrilinear(
    volume: Float[Tensor, "b c hr wr hq wq"],
    reference_xy_norm: Float[Tensor, "b n 2"],
    query_xy_norm: Float[Tensor, "b n 2"],
) -> Float[Tensor, "b n c"]:
    """Bilinear in the reference axes, then in the query axes (align-corners); zero outside the volume.

    Fastest where the channels of `volume` are adjacent in memory: it is then read in place.
    """
    batch, channels, *sizes = volume.shape
    rows = volume.movedim(1, -1).reshape(-1, channels)
    reference = corners(reference_xy_norm, (sizes[0], sizes[1]))
    query = corners(query_xy_norm, (sizes[2], sizes[3]))
    first_row = torch.arange(batch, device=volume.device)[:, None, None] * (sizes[0] * sizes[1])
    row = (first_row + reference.cell)[..., :, None] * (sizes[2] * sizes[3]) + query.cell[..., None, :]
    weight = reference.weight[..., :, None] * query.weight[..., None, :]
    return weighted_rows(rows, row.flatten(-2), weight.flatten(-2))


def weighted_rows(
    rows: Float[Tensor, "m c"], row: Int64[Tensor, "*n k"], weight: Float[Tensor, "*n k"]
) -> Float[Tensor, "*n c"]:
    """Sums of K weighted rows of a table."""
    bags = (-1, row.shape[-1])
    summed = F.embedding_bag(row.reshape(bags), rows, mode="sum", per_sample_weights=weight.reshape(bags))
    return summed.view(*row.shape[:-1], -1)


def _around(
    position: Float[Tensor, "*n"], size: int
) -> tuple[Int64[Tensor, "*n 2"], Float[Tensor, "*n 2"], Bool[Tensor, "*n 2"]]:
    """Along one axis: the indices of the cells before and after, their weights, and whether they are inside."""
    low = position.detach().floor()
    fraction = position - low
    index = torch.stack([low, low + 1], dim=-1)
    inside = (index >= 0) & (index < size)
    weight = torch.stack([1 - fraction, fraction], dim=-1) * inside
    return torch.where(inside, index, 0).long(), weight, inside


def _outer(y: Float[Tensor, "*n 2"], x: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 4"]:
    return (y[..., :, None] * x[..., None, :]).flatten(-2)
