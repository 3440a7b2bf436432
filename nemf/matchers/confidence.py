"""The mass of score maps: how much of what a matcher sees in the reference image lies round its answer.

nemf.calibration says what a mass is, and makes a probability of it. A score map holds the scores of one query point at
the centres of h x w cells that tile the reference image.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from nemf.calibration import RADIUS, Calibration
from nemf.coordinates import pixel_grid, px_to_norm, rescale_px
from nemf.matcher import ImagePair, Match
from nemf.model.quadrilinear import corners

POINTS_AT_ONCE = 16
"""Number of points whose masses are computed together, padded: kernels round differently by shape."""

Size = tuple[int, int]


@runtime_checkable
class MassMatcher(Protocol):
    """A matcher whose confidence is made of masses, so that it can be fitted."""

    calibration: Calibration

    def masses(self, pair: ImagePair, temperatures: Sequence[float]) -> tuple[Match, Float32[np.ndarray, "t k"]]:
        """The pair's match, and the mass of each of its points' answers at every temperature."""
        ...


def point_mass(
    scores: Float[Tensor, "k h w"], answers_xy_px: Float[Tensor, "k 2"], reference_hw: Size, temperature: float
) -> Float[Tensor, " k"]:
    """The mass of each of at most POINTS_AT_ONCE answers, from the score map of its point."""
    padding = POINTS_AT_ONCE - len(scores)
    maps = mass_maps(F.pad(scores, (0, 0, 0, 0, 0, padding)), reference_hw, temperature)
    index = torch.arange(POINTS_AT_ONCE, device=scores.device)
    return read_maps(maps, index, F.pad(answers_xy_px, (0, 0, 0, padding)), reference_hw)[: len(scores)]


def mass_maps(scores: Float[Tensor, "k h w"], reference_hw: Size, temperature: float) -> Float[Tensor, "k h w"]:
    """For every cell, the softmax of the map's scores over the temperature, summed over the cells round it: 0..1.

    A cell counts where its centre is within RADIUS longer sides of the reference image; at the edge of that disc in
    part, over one cell's width. Maps of one number K are rounded alike.
    """
    k, h, w = scores.shape
    share = (scores.flatten(1) / temperature).softmax(dim=1).view(1, k, h, w)
    disc = _disc((h, w), reference_hw).to(scores)
    reach = (disc.shape[0] // 2, disc.shape[1] // 2)
    # the maps as channels that lie next to each other, each convolved by itself: far faster than as a batch of images
    channels = share.contiguous(memory_format=torch.channels_last)
    with torch.backends.cudnn.flags(enabled=False):  # it chooses among algorithms that round differently
        sums = F.conv2d(channels, disc.expand(k, 1, -1, -1).contiguous(), padding=reach, groups=k)
    return sums[0].clamp_(0, 1)


def read_maps(
    maps: Float[Tensor, "k h w"], index: Int64[Tensor, " n"], xy_px: Float[Tensor, "n 2"], reference_hw: Size
) -> Float[Tensor, " n"]:
    """The value at each point of the reference image in the map of that index: bilinear between the cells' centres, and
    outside of them that of the nearest place between them."""
    hw = (maps.shape[1], maps.shape[2])
    cell, weight = corners(px_to_norm(rescale_px(xy_px, reference_hw, hw), hw).clamp(-1, 1), hw)
    # one after the other: a sum along an axis rounds by the number of points
    row, column = cell // hw[1], cell % hw[1]
    values = [maps[index, row[:, corner], column[:, corner]] * weight[:, corner] for corner in range(4)]
    return values[0] + values[1] + values[2] + values[3]


def flow_mass(
    maps: Float[Tensor, "places h w"],
    places_hw: Size,
    query_xy_px: Float[Tensor, "n 2"],
    answers_xy_px: Float[Tensor, "n 2"],
    query_hw: Size,
    reference_hw: Size,
) -> Float[Tensor, " n"]:
    """The mass of answers to many query points, from the mass maps of few.

    maps: of the centres of the places_hw cells that tile the query image, row by row.
    query_xy_px, answers_xy_px: the points, and their answers in the reference image.
    Each point reads the maps of the four places round it, where the answer would be if both images differed by a shift
    and by their sizes, and takes the greatest value: an answer that none of its neighbours shares has little mass.
    """
    rows, columns = places_hw
    centres_xy_px = rescale_px(pixel_grid(places_hw), places_hw, query_hw).view(-1, 2).to(query_xy_px)
    scale = max(reference_hw) / max(query_hw)
    last = query_xy_px.new_tensor([max(columns - 2, 0), max(rows - 2, 0)])
    first = rescale_px(query_xy_px, query_hw, places_hw).floor().clamp(min=0).minimum(last).long()
    values = []
    for row in range(min(rows, 2)):
        for column in range(min(columns, 2)):
            place = (first[:, 1] + row) * columns + first[:, 0] + column
            moved_xy_px = answers_xy_px + (centres_xy_px[place] - query_xy_px) * scale
            values.append(read_maps(maps, place, moved_xy_px, reference_hw))
    return torch.stack(values).amax(dim=0)


def _disc(hw: Size, reference_hw: Size) -> Float[Tensor, "a b"]:
    """The weights of the cells round one: 1 inside of RADIUS, 0 outside, a slope of one cell's width between."""
    cell_px = [side / count for side, count in zip(reference_hw, hw, strict=True)]
    radius_px = RADIUS * max(reference_hw)
    reach = [min(int(radius_px / side + 1), count - 1) for side, count in zip(cell_px, hw, strict=True)]
    y_px, x_px = (torch.arange(-n, n + 1) * side for n, side in zip(reach, cell_px, strict=True))
    distance_px = torch.hypot(y_px[:, None], x_px[None])
    return ((radius_px - distance_px) / max(cell_px) + 0.5).clamp(0, 1)
