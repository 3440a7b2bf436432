"""The receptive field of a PatchMatch: the pixels it has to compute when its result is read at some points only.

An iteration reads one pixel to the left, right, up and down. So a point needs itself after the last iteration, its
neighbours after the last but one, and so on: a diamond that shrinks by one pixel per iteration.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


def steps_to_points(xy_px: Float[Tensor, "b k 2"], hw: tuple[int, int], max_steps: int) -> Int64[Tensor, "b h w"]:
    """Steps to a 4-neighbour from each pixel to the nearest pixel that a point is read from.

    A point is read from the (up to four) pixels around it; one outside the grid, from those nearest to it.
    Counts up to `max_steps`, and gives max_steps + 1 beyond.
    """
    reached = _read_from(xy_px, hw)
    steps = torch.where(reached, 0, max_steps + 1)
    for step in range(1, max_steps + 1):
        dilated = _dilate(reached)
        steps[dilated & ~reached] = step
        reached = dilated
    return steps


def _read_from(xy_px: Float[Tensor, "b k 2"], hw: tuple[int, int]) -> Bool[Tensor, "b h w"]:
    """Mask of the pixels that the points are read from."""
    last = xy_px.new_tensor([hw[1] - 1, hw[0] - 1])
    inside = xy_px.clamp(min=0).minimum(last)
    mask = torch.zeros(len(xy_px), *hw, dtype=torch.bool, device=xy_px.device)
    pair = torch.arange(len(xy_px), device=xy_px.device)[:, None]
    low, high = inside.floor().long(), inside.ceil().long()
    for x in (low[..., 0], high[..., 0]):
        for y in (low[..., 1], high[..., 1]):
            mask[pair, y, x] = True
    return mask


def _dilate(mask: Bool[Tensor, "b h w"]) -> Bool[Tensor, "b h w"]:
    """The mask and its 4-neighbours."""
    padded = F.pad(mask, (1, 1, 1, 1))
    sideways = padded[:, 1:-1, :-2] | padded[:, 1:-1, 2:]
    return mask | sideways | padded[:, :-2, 1:-1] | padded[:, 2:, 1:-1]
