"""Examples made of one photograph: the photograph and a smoothly warped copy, whose correspondence is known."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator

from nemf.coordinates import pixel_grid
from nemf.matcher import RGB
from nemf.training.example import Example, View
from nemf.training.geometry import XY, Affine, AffineRange, resample
from nemf.training.rng import uniform


@dataclass(frozen=True, slots=True, kw_only=True)
class WarpConfig:
    """Range of random warps."""

    affine: AffineRange = field(default_factory=lambda: AffineRange(rotation_deg=25.0, scale=1.3, shear=0.2, shift=0.1))
    waves: int = 4
    """Number of plane waves that bend the image."""
    cycles: float = 1.5
    """Maximum periods of a wave along the image's longer side; the minimum is 0.5."""
    bend: float = 0.7
    """Maximum local stretch of all waves together; below 1, so that the warp does not fold."""

    def __post_init__(self) -> None:
        if not (self.waves >= 1 and self.cycles >= 0.5 and 0 <= self.bend < 1):
            raise ValueError(
                "waves must be at least 1, cycles at least 0.5, and bend from 0 to below 1; "
                f"got {self.waves}, {self.cycles}, {self.bend}"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Warp:
    """Plane waves followed by an affine map. The Jacobian's determinant is positive everywhere."""

    affine: Affine
    wave: Float[np.ndarray, "waves 2"]
    """Radians per pixel along x and y."""
    phase: Float[np.ndarray, " waves"]
    amplitude_px: Float[np.ndarray, "waves 2"]
    """|wave| * |amplitude_px| sums to less than 1 over the waves, so the warp is invertible."""

    def __call__(self, xy_px: XY) -> XY:
        """The mapped points."""
        return self.affine(xy_px + np.sin(xy_px @ self.wave.T + self.phase) @ self.amplitude_px)


def draw_warp(hw: tuple[int, int], generator: Generator, config: WarpConfig) -> Warp:
    """A random warp of an image of size (h, w)."""
    waves, phases, amplitudes = [], [], []
    for _ in range(config.waves):
        direction, towards, phase = (uniform(generator, 0, 2 * math.pi) for _ in range(3))
        length = 2 * math.pi * uniform(generator, 0.5, config.cycles) / max(hw)
        amplitude_px = config.bend / config.waves / length
        waves.append([length * math.cos(direction), length * math.sin(direction)])
        amplitudes.append([amplitude_px * math.cos(towards), amplitude_px * math.sin(towards)])
        phases.append(phase)
    return Warp(
        affine=config.affine.draw(hw, generator),
        wave=np.array(waves),
        phase=np.array(phases),
        amplitude_px=np.array(amplitudes),
    )


def warped_pair(rgb: RGB, n_points: int, generator: Generator, config: WarpConfig) -> Example:
    """The photograph as reference and a warped copy of its size as query, with at most `n_points` points.

    The points are uniform over the part of the copy that shows the photograph, and exact, not rounded to pixels.
    Raises ValueError where the copy shows nothing of the photograph.
    """
    hw = rgb.shape[0], rgb.shape[1]
    to_reference = draw_warp(hw, generator, config)
    query_rgb = resample(rgb, to_reference(pixel_grid(hw).double().numpy()))
    last_px = np.array([hw[1] - 1, hw[0] - 1])
    query_xy_px = torch.rand(8 * n_points, 2, generator=generator, dtype=torch.float64).numpy() * last_px
    example = Example(
        reference=View(rgb=rgb, xy_px=to_reference(query_xy_px).astype(np.float32)),
        query=View(rgb=query_rgb, xy_px=query_xy_px.astype(np.float32)),
    ).drop_outside_points()
    if not len(example):
        raise ValueError(f"a warped photograph of size {hw} shows nothing of it: lessen {config}")
    first = np.arange(min(n_points, len(example)))
    return Example(reference=example.reference.select_points(first), query=example.query.select_points(first))
