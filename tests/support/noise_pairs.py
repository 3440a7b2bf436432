"""Pairs of images of noise, with points to match."""

import numpy as np

from nemf import ImagePair, Match

POINTS = np.array([[3, 4], [20, 11], [39, 0], [0, 23], [20, 12]], np.float32)


def noise(*hw: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)


def pair(pair_id: str = "a", seed: int = 0, **options: object) -> ImagePair:
    return ImagePair(
        query_rgb=noise(24, 40, seed=seed), reference_rgb=noise(50, 30, seed=seed + 1), pair_id=pair_id, **options
    )


def same(match: Match, other: Match) -> bool:
    arrays = ("reference_xy_px", "point_confidence", "flow_px", "flow_confidence")
    return all(np.array_equal(getattr(match, name), getattr(other, name)) for name in arrays)
