"""Coordinates of pixels, and their conversions.

The one pixel convention of this project: integer coordinates are pixel centres, (0, 0) is the centre of the top-left
pixel, x comes before y, images are RGB uint8 with their EXIF orientation applied, sizes are (height, width).
A `_px` array is in that frame of its own image. A `_norm` array is align-corners normalised: -1 is the centre of the
first pixel, +1 the centre of the last one, x_norm = 2 x_px / (W - 1) - 1, and 0 where the image is one pixel wide.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def px_to_norm(xy_px: Float[Tensor, "*n 2"], hw: tuple[int, int]) -> Float[Tensor, "*n 2"]:
    """Pixels of an image of size `hw` to align-corners normalised coordinates, [-1, 1] inside the image."""
    last_px = xy_px.new_tensor([hw[1] - 1, hw[0] - 1])
    return torch.where(last_px > 0, 2 * xy_px / last_px.clamp(min=1) - 1, 0.0)


def norm_to_px(xy_norm: Float[Tensor, "*n 2"], hw: tuple[int, int]) -> Float[Tensor, "*n 2"]:
    """The inverse of px_to_norm; along an axis of one pixel every coordinate becomes 0."""
    last_px = xy_norm.new_tensor([hw[1] - 1, hw[0] - 1])
    return (xy_norm + 1) / 2 * last_px


def rescale_px(xy_px: Float[Tensor, "*n 2"], from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Float[Tensor, "*n 2"]:
    """The position of points after their image is resized from `from_hw` to `to_hw`.

    Pixel areas map onto pixel areas, as Pillow's resize and torch's align_corners=False do:
    (x + 1/2) W'/W - 1/2. Feature maps and score maps are grids of cells and follow the same rule.
    """
    scale = xy_px.new_tensor([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]])
    return (xy_px + 0.5) * scale - 0.5


def pixel_grid(hw: tuple[int, int]) -> Float[Tensor, "h w 2"]:
    """The (x, y) of every pixel centre."""
    y, x = torch.meshgrid(
        torch.arange(hw[0], dtype=torch.float32), torch.arange(hw[1], dtype=torch.float32), indexing="ij"
    )
    return torch.stack([x, y], dim=-1)
