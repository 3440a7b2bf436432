"""Bilinear sampling of a field."""

import torch
from jaxtyping import Float
from torch import Tensor


def sample_field(field_norm: Float[Tensor, "b 2 h w"], xy_px: Float[Tensor, "b n 2"]) -> Float[Tensor, "b n 2"]:
    """Bilinear interpolation of a field at pixels of its grid; exactly the field's value at a pixel.

    A point outside the grid reads the nearest point inside.
    """
    batch, _, height, width = field_norm.shape
    inside = xy_px.clamp(min=0).minimum(xy_px.new_tensor([width - 1, height - 1]))
    low, high = inside.floor().long(), inside.ceil().long()
    x_weight, y_weight = (inside - low)[..., None].unbind(2)
    pair = torch.arange(batch, device=field_norm.device)[:, None]
    by_pixel = field_norm.permute(0, 2, 3, 1)

    def row(y: Tensor) -> Tensor:
        return by_pixel[pair, y, low[..., 0]] * (1 - x_weight) + by_pixel[pair, y, high[..., 0]] * x_weight

    return row(low[..., 1]) * (1 - y_weight) + row(high[..., 1]) * y_weight
