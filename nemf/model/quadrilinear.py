"""Interpolation of a 4D volume at pairs of points: a weighted sum of 16 corners, with no volume per query."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from nemf.coordinates import norm_to_px


class Corners(NamedTuple):
    """The four cells around each of some points: upper left, upper right, lower left, lower right."""

    cell: Int64[Tensor, "*n 4"]
    """Index of the cell, row by row; 0 for one that is not there."""
    weight: Float[Tensor, "*n 4"]
    """Bilinear weight; 0 for a cell that is not there."""


def corners(xy_norm: Float[Tensor, "*n 2"], hw: tuple[int, int]) -> Corners:
    """The corners of points in a grid of cells (align-corners)."""
    xy = norm_to_px(xy_norm, hw)
    (x, x_weight, _), (y, y_weight, _) = _around(xy[..., 0], hw[1]), _around(xy[..., 1], hw[0])
    cell = y[..., :, None] * hw[1] + x[..., None, :]
    return Corners(cell.flatten(-2), _outer(y_weight, x_weight))


def corner_slopes(xy_norm: Float[Tensor, "*n 2"], hw: tuple[int, int]) -> Float[Tensor, "*n 2 4"]:
    """The derivatives of the corners' weights with respect to the points' normalised x and y."""
    xy = norm_to_px(xy_norm, hw)
    (_, x_weight, x_there), (_, y_weight, y_there) = _around(xy[..., 0], hw[1]), _around(xy[..., 1], hw[0])
    step = xy.new_tensor([-0.5, 0.5])
    by_x = _outer(y_weight, x_there * (step * (hw[1] - 1)))
    by_y = _outer(y_there * (step * (hw[0] - 1)), x_weight)
    return torch.stack([by_x, by_y], dim=-2)


def sample_quadrilinear(
    volume: Float[Tensor, "b c hs ws ht wt"],
    source_xy_norm: Float[Tensor, "b n 2"],
    target_xy_norm: Float[Tensor, "b n 2"],
) -> Float[Tensor, "b n c"]:
    """Bilinear in the source axes, then in the target axes (align-corners); zero outside the volume.

    Fastest where the channels of `volume` are adjacent in memory: it is then read in place.
    """
    batch, channels, *sizes = volume.shape
    rows = volume.movedim(1, -1).reshape(-1, channels)
    source = corners(source_xy_norm, (sizes[0], sizes[1]))
    target = corners(target_xy_norm, (sizes[2], sizes[3]))
    first_row = torch.arange(batch, device=volume.device)[:, None, None] * (sizes[0] * sizes[1])
    row = (first_row + source.cell)[..., :, None] * (sizes[2] * sizes[3]) + target.cell[..., None, :]
    weight = source.weight[..., :, None] * target.weight[..., None, :]
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
    """Along one axis: the index of the cells before and after, their weights, and whether they are there."""
    low = position.detach().floor()
    fraction = position - low
    index = torch.stack([low, low + 1], dim=-1)
    there = (index >= 0) & (index < size)
    weight = torch.stack([1 - fraction, fraction], dim=-1) * there
    return torch.where(there, index, 0).long(), weight, there


def _outer(y: Float[Tensor, "*n 2"], x: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n 4"]:
    return (y[..., :, None] * x[..., None, :]).flatten(-2)
