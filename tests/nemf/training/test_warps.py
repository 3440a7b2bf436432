import numpy as np
import pytest

from nemf.training.geometry import AffineRange, resample
from nemf.training.rng import generator_of
from nemf.training.warps import WarpConfig, draw_warp, warped_pair

HW = (90, 140)


def smooth_photograph() -> np.ndarray:
    """A different, slowly changing colour everywhere."""
    y, x = np.indices(HW)
    channels = [x * 255 / (HW[1] - 1), y * 255 / (HW[0] - 1), 127 + 120 * np.sin(x / 25) * np.cos(y / 20)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def colour_at(rgb: np.ndarray, xy_px: np.ndarray) -> np.ndarray:
    return resample(rgb, xy_px.astype(np.float64)[None])[0].astype(int)


@pytest.mark.parametrize("seed", range(5))
def test_corresponding_points_look_alike(seed: int):
    pair = warped_pair(smooth_photograph(), 300, generator_of("warp", seed), WarpConfig())
    assert len(pair) == 300
    reference, query = colour_at(pair.reference.rgb, pair.reference.xy_px), colour_at(pair.query.rgb, pair.query.xy_px)
    # between pixels, rounded twice
    assert np.abs(reference - query).max() <= 3
    moved_px = np.linalg.norm(pair.reference.xy_px - pair.query.xy_px, axis=1)
    assert moved_px.mean() > 3
    assert pair.reference.inside_mask().all()
    assert pair.query.inside_mask().all()


@pytest.mark.parametrize("seed", range(5))
def test_nothing_folds_over(seed: int):
    warp = draw_warp(HW, generator_of("warp", seed), WarpConfig(bend=0.95, waves=2, cycles=3.0))
    xy_px = np.random.default_rng(seed).uniform(-20, 160, (2000, 2))
    step = 1e-4
    by_x, by_y = ((warp(xy_px + d) - warp(xy_px - d)) / (2 * step) for d in np.eye(2) * step)
    determinant = by_x[:, 0] * by_y[:, 1] - by_x[:, 1] * by_y[:, 0]
    assert determinant.min() > 0
    assert determinant.std() > 0.1


def test_warps_are_a_function_of_the_generator():
    first, second, other = (warped_pair(smooth_photograph(), 9, generator_of("w", s), WarpConfig()) for s in (1, 1, 2))
    assert np.array_equal(first.query.rgb, second.query.rgb)
    assert np.array_equal(first.reference.xy_px, second.reference.xy_px)
    assert not np.array_equal(first.query.rgb, other.query.rgb)


def test_impossible_warps():
    with pytest.raises(ValueError, match=r"bend from 0 to below 1; got 4, 1\.5, 1\.0"):
        WarpConfig(bend=1.0)
    with pytest.raises(ValueError, match="scale must be at least 1"):
        AffineRange(rotation_deg=0.0, scale=0.0, shear=0.0, shift=0.0)
    far = WarpConfig(affine=AffineRange(rotation_deg=0.0, scale=1.0, shear=0.0, shift=1e6))
    with pytest.raises(ValueError, match="shows nothing of it"):
        warped_pair(smooth_photograph(), 9, generator_of("w"), far)
