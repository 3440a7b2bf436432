"""How well a matcher's descriptors tell each place of an image from the rest of the image."""

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from nemf.coordinates import pixel_grid

_RADIUS = 0.15
"""Cells nearer than this share of the map's side count as the same place: descriptors change smoothly."""


def distinctness(descriptors: Float[Tensor, "c h w"]) -> Float32[np.ndarray, "h w"]:
    """For each cell 1 - the greatest cosine of its descriptor with one of a cell farther away, 0..2.

    descriptors: of unit length. It is what the best place of a point is ahead of the second best one where the image is
    matched with itself; low where something is repeated or flat. 2 where no cell is farther away.
    """
    _, height, width = descriptors.shape
    every_xy = pixel_grid((height, width)).view(-1, 2) / torch.tensor([width, height])
    every = descriptors.flatten(1).cpu()
    rows = []
    for row in range(height):  # one row at a time, so that a fine map fits in memory
        of_row = slice(row * width, (row + 1) * width)
        cosine = every[:, of_row].T @ every
        near = (every_xy[of_row, None] - every_xy).norm(dim=2) <= _RADIUS
        rows.append(1 - cosine.masked_fill(near, -1).amax(dim=1).clamp(-1, 1))
    return torch.stack(rows).numpy()
