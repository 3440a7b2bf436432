"""Images seen through a change of coordinates."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator

from nemf.coordinates import px_to_norm
from nemf.matcher import RGB
from nemf.training.rng import uniform

XY = Float[np.ndarray, "*n 2"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Affine:
    """xy to matrix xy + offset, in pixels."""

    matrix: Float[np.ndarray, "2 2"]
    offset_px: Float[np.ndarray, "2"]

    def __call__(self, xy_px: XY) -> XY:
        """Where the points go."""
        return xy_px @ self.matrix.T + self.offset_px

    def inverse(self) -> "Affine":
        """The way back."""
        matrix = np.linalg.inv(self.matrix)
        return Affine(matrix=matrix, offset_px=-matrix @ self.offset_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineRange:
    """What affine maps are drawn from, each number evenly between its two ends; they turn about the image's centre."""

    rotation_deg: float
    """At most this far either way."""
    scale: float
    """From 1 / scale to scale, evenly in its logarithm; at least 1."""
    shear: float
    """x moves by at most this share of y."""
    shift: float
    """At most this share of the image's width, and of its height."""

    def __post_init__(self) -> None:
        if not self.scale >= 1 or not min(self.rotation_deg, self.shear, self.shift) >= 0:
            raise ValueError(f"scale must be at least 1, the other numbers at least 0; got {self}")

    def draw(self, hw: tuple[int, int], generator: Generator) -> Affine:
        """One map of an image of size `hw` onto a canvas of that size; its determinant is positive."""
        angle = math.radians(uniform(generator, -self.rotation_deg, self.rotation_deg))
        scale = math.exp(uniform(generator, -1, 1) * math.log(self.scale))
        shear = uniform(generator, -self.shear, self.shear)
        shift_px = [uniform(generator, -self.shift, self.shift) * size for size in (hw[1], hw[0])]
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = scale * rotation @ np.array([[1, shear], [0, 1]])
        centre_px = np.array([hw[1] - 1, hw[0] - 1]) / 2
        return Affine(matrix=matrix, offset_px=centre_px - matrix @ centre_px + shift_px)


def resample(rgb: RGB, from_xy_px: Float[np.ndarray, "h w 2"]) -> RGB:
    """The image whose pixel (x, y) shows what `rgb` shows at from_xy_px[y, x].

    Bilinear; beyond the border the nearest pixel of the border is seen.
    """
    image = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float()
    grid = px_to_norm(torch.from_numpy(from_xy_px), (rgb.shape[0], rgb.shape[1])).float()
    seen = F.grid_sample(image, grid[None], mode="bilinear", padding_mode="border", align_corners=True)
    return seen[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
