"""Affine maps of pixel coordinates, and images resampled along a map."""

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
    """The map xy -> matrix xy + offset, in pixels."""

    matrix: Float[np.ndarray, "2 2"]
    offset_px: Float[np.ndarray, "2"]

    def __call__(self, xy_px: XY) -> XY:
        """The mapped points."""
        return xy_px @ self.matrix.T + self.offset_px

    def inverse(self) -> "Affine":
        """The inverse map."""
        matrix = np.linalg.inv(self.matrix)
        return Affine(matrix=matrix, offset_px=-matrix @ self.offset_px)


@dataclass(frozen=True, slots=True, kw_only=True)
class AffineRange:
    """Range of random affine maps about the image's centre; each number is drawn uniformly between its two ends."""

    rotation_deg: float
    """Maximum rotation either way, degrees."""
    scale: float
    """Scales lie between 1 / scale and scale, uniform in the logarithm; at least 1."""
    shear: float
    """Maximum shear: x moves by at most this share of y."""
    shift: float
    """Maximum translation, as a share of the image's width and height."""

    def __post_init__(self) -> None:
        if not self.scale >= 1 or not min(self.rotation_deg, self.shear, self.shift) >= 0:
            raise ValueError(f"scale must be at least 1, the other numbers at least 0; got {self}")

    def draw(self, hw: tuple[int, int], generator: Generator) -> Affine:
        """A random map of an image of size (h, w) onto one of that size; its determinant is positive."""
        angle = math.radians(uniform(generator, -self.rotation_deg, self.rotation_deg))
        scale = math.exp(uniform(generator, -1, 1) * math.log(self.scale))
        shear = uniform(generator, -self.shear, self.shear)
        shift_px = [uniform(generator, -self.shift, self.shift) * size for size in (hw[1], hw[0])]
        rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        matrix = scale * rotation @ np.array([[1, shear], [0, 1]])
        centre_px = np.array([hw[1] - 1, hw[0] - 1]) / 2
        return Affine(matrix=matrix, offset_px=centre_px - matrix @ centre_px + shift_px)


def resample(rgb: RGB, from_xy_px: Float[np.ndarray, "h w 2"]) -> RGB:
    """The (h, w) image whose pixel (x, y) is `rgb` at from_xy_px[y, x], bilinear; border pixels repeat outside."""
    image = torch.from_numpy(np.array(rgb)).permute(2, 0, 1)[None].float()
    grid = px_to_norm(torch.from_numpy(from_xy_px), (rgb.shape[0], rgb.shape[1])).float()
    sampled = F.grid_sample(image, grid[None], mode="bilinear", padding_mode="border", align_corners=True)
    return sampled[0].permute(1, 2, 0).round().to(torch.uint8).numpy()
