"""Image pairs with known keypoints: photographs of scikit-image and smoothly warped copies of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import skimage.data
from PIL import Image
from scipy.ndimage import map_coordinates

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "motorcycle_left", "rocket")
_LONG_SIDE = 400
_GRID = 5


def write_pairs(table: Path, n_warps: int, seed: int) -> None:
    """Write a table of pairs as CSV, and their images to the folder images/ next to it.

    The source of a pair is a photograph, its target a warped copy; each photograph has `n_warps` of them.
    """
    folder = table.parent
    rng = np.random.default_rng(seed)
    rows = []
    for name in PHOTOGRAPHS:
        photograph = _photograph(name)
        source = folder / "images" / f"{name}.png"
        Image.fromarray(photograph).save(source)
        for index in range(n_warps):
            to_source_px = smooth_warp(rng, photograph.shape[:2])
            target = folder / "images" / f"{name}-warp-{index}.png"
            Image.fromarray(warped(photograph, to_source_px)).save(target)
            source_xy_px, target_xy_px = keypoints(to_source_px, photograph.shape[:2])
            rows.append(
                {
                    "pair_id": f"{name}-{index}",
                    "source_uri": str(source.relative_to(folder)),
                    "target_uri": str(target.relative_to(folder)),
                    "category": name,
                    "dataset": "demo",
                    "source_xy_px": _as_text(source_xy_px),
                    "target_xy_px": _as_text(target_xy_px),
                }
            )
    pd.DataFrame(rows).to_csv(table, index=False)


def _photograph(name: str) -> np.ndarray:
    """A photograph of scikit-image, (H, W, 3) uint8, its long side _LONG_SIDE."""
    pixels = skimage.data.stereo_motorcycle()[0] if name == "motorcycle_left" else getattr(skimage.data, name)()
    image = Image.fromarray(pixels)
    image.thumbnail((_LONG_SIDE, _LONG_SIDE))
    return np.asarray(image)


def smooth_warp(rng: np.random.Generator, hw: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """A random map from target pixels (..., 2) to source pixels: rotation, scale, shift and a sine wave of low
    frequency."""
    height, width = hw
    size = np.array([width, height])
    angle = rng.uniform(-0.25, 0.25)
    scale = rng.uniform(0.85, 1.15)
    rotation = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shift = rng.uniform(-0.05, 0.05, 2) * size
    phase = rng.uniform(0, 2 * np.pi, 2)
    waves = rng.uniform(0.5, 1.0, 2)

    def to_source_px(target_xy_px: np.ndarray) -> np.ndarray:
        centred = target_xy_px - size / 2
        wave = 0.02 * size * np.sin(2 * np.pi * waves * target_xy_px[..., ::-1] / size[::-1] + phase)
        return centred @ rotation.T + size / 2 + shift + wave

    return to_source_px


def warped(photograph: np.ndarray, to_source_px: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The photograph, (H, W, C), warped: each pixel of the result is taken, bilinearly, from where the map sends it."""
    height, width = photograph.shape[:2]
    y, x = np.mgrid[:height, :width]
    source_xy_px = to_source_px(np.stack([x, y], axis=-1).astype(np.float64))
    source_yx_px = [source_xy_px[..., 1], source_xy_px[..., 0]]
    channels = [map_coordinates(photograph[..., c], source_yx_px, order=1, mode="reflect") for c in range(3)]
    return np.stack(channels, axis=-1)


def keypoints(to_source_px: Callable[[np.ndarray], np.ndarray], hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(source, target) points, (K, 2) pixels each: a grid of the target, without points that lie outside the source."""
    height, width = hw
    x, y = np.meshgrid(np.linspace(0.1, 0.9, _GRID) * (width - 1), np.linspace(0.1, 0.9, _GRID) * (height - 1))
    target_xy_px = np.stack([x.ravel(), y.ravel()], axis=-1)
    source_xy_px = to_source_px(target_xy_px)
    inside = ((source_xy_px >= 0) & (source_xy_px <= [width - 1, height - 1])).all(axis=1)
    return source_xy_px[inside], target_xy_px[inside]


def _as_text(xy_px: np.ndarray) -> str:
    return ";".join(f"{x:.3f},{y:.3f}" for x, y in xy_px)
