"""Interpolation of a 4D volume at pairs of points: a weighted sum of 16 corners, with no volume per query."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from nemf.coordinates import norm_to_px


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
    source_cell, source_weight = _corners(source_xy_norm, (sizes[0], sizes[1]))
    target_cell, target_weight = _corners(target_xy_norm, (sizes[2], sizes[3]))
    first_row = torch.arange(batch, device=volume.device)[:, None, None] * (sizes[0] * sizes[1])
    row = (first_row + source_cell)[..., :, None] * (sizes[2] * sizes[3]) + target_cell[..., None, :]
    weight = source_weight[..., :, None] * target_weight[..., None, :]
    bags = (batch * source_xy_norm.shape[1], 16)
    sampled = F.embedding_bag(row.reshape(bags), rows, mode="sum", per_sample_weights=weight.reshape(bags))
    return sampled.view(batch, -1, channels)


def _corners(
    xy_norm: Float[Tensor, "b n 2"], hw: tuple[int, int]
) -> tuple[Int64[Tensor, "b n 4"], Float[Tensor, "b n 4"]]:
    """The four cells around each point, by their index, and their bilinear weights: 0 for a cell that is not there."""
    xy = norm_to_px(xy_norm, hw)
    low = xy.detach().floor()
    high_weight = xy - low
    cell_x, cell_y = (torch.stack([low[..., i], low[..., i] + 1], dim=-1) for i in (0, 1))
    weight_x, weight_y = (torch.stack([1 - high_weight[..., i], high_weight[..., i]], dim=-1) for i in (0, 1))
    weight_x = weight_x * ((cell_x >= 0) & (cell_x < hw[1]))
    weight_y = weight_y * ((cell_y >= 0) & (cell_y < hw[0]))
    x, y = cell_x.long().clamp(0, hw[1] - 1), cell_y.long().clamp(0, hw[0] - 1)
    cell = (y[..., :, None] * hw[1] + x[..., None, :]).flatten(-2)
    return cell, (weight_y[..., :, None] * weight_x[..., None, :]).flatten(-2)
