"""The contract that every matcher keeps, and a match that is known."""

import numpy as np
import pytest

from nemf import ImagePair, load_matcher

MATCHER = load_matcher("nemf_patch:build")
RNG = np.random.default_rng(0)
QUERY = RNG.integers(0, 256, (80, 120, 3)).astype(np.uint8)
SHIFTED = np.roll(QUERY, (10, -8), axis=(0, 1))  # 10 down, 8 to the left
POINTS = np.array([[60, 40], [70, 30]], np.float32)


def _pair(reference: np.ndarray, points: np.ndarray | None = POINTS) -> ImagePair:
    return ImagePair(query_rgb=QUERY, reference_rgb=reference, query_xy_px=points)


def test_a_shift_is_found():
    (match,) = MATCHER.match_batch([_pair(SHIFTED)])
    assert match.reference_xy_px.tolist() == [[52, 50], [62, 40]]
    assert match.point_confidence.tolist() == [1, 1]


def test_a_match_depends_on_its_pair_alone():
    noise = RNG.integers(0, 256, QUERY.shape).astype(np.uint8)
    (alone,) = MATCHER.match_batch([_pair(noise)])
    *_, among_others = MATCHER.match_batch([_pair(SHIFTED), _pair(noise)])
    assert (alone.reference_xy_px == among_others.reference_xy_px).all()
    assert (alone.point_confidence == among_others.point_confidence).all()


@pytest.mark.parametrize("points", [None, np.zeros((0, 2), np.float32)])
def test_no_points_are_no_matches(points: np.ndarray | None):
    (match,) = MATCHER.match_batch([_pair(SHIFTED, points)])
    assert match.reference_xy_px.shape == (0, 2)
    assert match.point_confidence.shape == (0,)


def test_points_beyond_the_images_are_answered():
    (match,) = MATCHER.match_batch([_pair(SHIFTED, np.array([[-5, 200]], np.float32))])
    assert np.isfinite(match.reference_xy_px).all()
    assert 0 <= match.point_confidence[0] <= 1
