"""Where in an image a matcher's descriptors stand out: a map that its salient points are chosen by.

The descriptors of a network that was trained to match are long where there is something to match: on the validation
images of Animal-Pose that of a keypoint is longer than that of another place of the image with probability .90
(nemf-small, 40 images). How unlike the rest of the image they are says the opposite, .22: legs are alike, and no two
places of a meadow are. Of features that were not trained to match, what is unlike the rest is salient: .70 with
MobileNetV1's, .68 with SIFT, on 25 images.
"""

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from nemf.coordinates import pixel_grid

_RADIUS = 0.15
"""Cells nearer than this share of the map's side are no rest of the image: descriptors change smoothly."""


def length(descriptors: Float[Tensor, "c h w"]) -> Float32[np.ndarray, "h w"]:
    """The length of each cell's descriptor."""
    return descriptors.norm(dim=0).float().cpu().numpy()


def dissimilarity(descriptors: Float[Tensor, "c h w"]) -> Float32[np.ndarray, "h w"]:
    """For each cell 1 - the greatest cosine of its descriptor with one of a cell farther away, 0..2.

    descriptors: of unit length. It is how far the best place would be ahead of the second best one, were the image
    matched with itself. 2 where no cell is farther away.
    """
    _, height, width = descriptors.shape
    every_xy = pixel_grid((height, width)).view(-1, 2) / torch.tensor([width, height])
    every = descriptors.flatten(1).float().cpu()
    rows = []
    for row in range(height):  # one row at a time, so that a fine map fits in memory
        of_row = slice(row * width, (row + 1) * width)
        cosine = every[:, of_row].T @ every
        is_near = (every_xy[of_row, None] - every_xy).norm(dim=2) <= _RADIUS
        rows.append(1 - cosine.masked_fill(is_near, -1).amax(dim=1).clamp(-1, 1))
    return torch.stack(rows).numpy()
