"""Pairs of images of noise, with points to match: so small that matching every pixel takes no time."""

import numpy as np

from nemf import ImagePair, Match

POINTS = np.array([[3, 4], [10, 5], [19, 0], [0, 11], [10, 6]], np.float32)


def noise(*hw: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)


def pair(pair_id: str = "a", seed: int = 0, **options: object) -> ImagePair:
    return ImagePair(
        query_rgb=noise(12, 20, seed=seed), reference_rgb=noise(25, 15, seed=seed + 1), pair_id=pair_id, **options
    )


def same(match: Match, other: Match) -> bool:
    arrays = ("reference_xy_px", "point_confidence", "flow_px", "flow_confidence")
    return all(np.array_equal(getattr(match, name), getattr(other, name)) for name in arrays)
