import numpy as np
import pytest

from nemf.flow_map import folded_share, smoothed, torn_share

HW = (24, 32)
Y, X = np.mgrid[: HW[0], : HW[1]].astype(float)
GENTLE_PX = np.stack([20 + 2 * np.sin(X / 10), 0.5 * Y - 6], axis=-1)
"""A map from 24 x 32 nodes, one pixel apart."""


def scattered(share: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The map with a share of nodes that say anything, their confidences, and where they are."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(HW) < share
    flow_px = np.where(wrong[..., None], rng.uniform(-60, 60, (*HW, 2)), GENTLE_PX)
    confidence = np.where(wrong, rng.uniform(0, 0.6, HW), rng.uniform(0.4, 1, HW))
    return flow_px, confidence, wrong


def test_a_map_stays_one():
    smooth_px, agreement = smoothed(GENTLE_PX, np.ones(HW), (100, 100))
    assert np.abs(smooth_px - GENTLE_PX)[2:-2, 2:-2].max() < 0.2
    assert agreement.min() > 0.9


def test_a_constant_flow_is_unchanged_even_where_nothing_is_sure():
    confidence = np.random.default_rng(0).random(HW)
    smooth_px, agreement = smoothed(np.full((*HW, 2), 7.5), confidence, (100, 100))
    assert np.allclose(smooth_px, 7.5)
    assert np.allclose(agreement, 1)


def test_scattered_answers_follow_their_neighbours_and_lose_their_confidence():
    flow_px, confidence, wrong = scattered(0.3)
    smooth_px, agreement = smoothed(flow_px, confidence, (100, 100))
    error_px = np.hypot(*np.moveaxis(smooth_px - GENTLE_PX, -1, 0))
    assert folded_share(flow_px) > 0.25
    assert folded_share(smooth_px) == 0
    assert np.median(error_px) < 1
    assert np.median(error_px[wrong]) < 1
    assert np.median(agreement[wrong]) < 0.1 < 0.9 < np.median(agreement[~wrong])


def test_only_the_order_of_confidences_matters():
    flow_px, confidence, _ = scattered(0.3)
    smooth_px, _ = smoothed(flow_px, confidence, (100, 100))
    assert np.array_equal(smooth_px, smoothed(flow_px, confidence**3 / 7, (100, 100))[0])
    assert not np.allclose(smooth_px, smoothed(flow_px, 1 - confidence, (100, 100))[0], atol=1)


def test_known_matches_are_met_and_their_surroundings_follow():
    flow_px, confidence, _ = scattered(0.3)
    known_xy, known_px = np.array([[4, 5], [20.25, 11.5], [90, -3]]), np.array([[25, 0], [14, 5], [22, 2]], float)
    smooth_px, _ = smoothed(flow_px, confidence, (100, 100), known_xy, known_px)
    between = 0.5 * (0.75 * smooth_px[11, 20] + 0.25 * smooth_px[11, 21])
    between += 0.5 * (0.75 * smooth_px[12, 20] + 0.25 * smooth_px[12, 21])
    assert np.allclose(smooth_px[5, 4], known_px[0], atol=0.1)
    assert np.allclose(between, known_px[1], atol=0.1)
    assert np.allclose(smooth_px[0, 31], known_px[2], atol=0.1)  # outside: at the nearest node
    free_px, _ = smoothed(flow_px, confidence, (100, 100))
    assert np.abs(smooth_px - free_px)[5, 5].max() > 0.3
    assert np.abs(smooth_px - free_px)[20, 4].max() < 0.1


def test_two_known_matches_of_one_node_are_met_halfway():
    twice, apart_px = np.array([[4, 5], [4, 5]], float), np.array([[25, 0], [15, -8]], float)
    smooth_px, _ = smoothed(GENTLE_PX, np.ones(HW), (100, 100), twice, apart_px)
    assert np.allclose(smooth_px[5, 4], [20, -4], atol=0.1)


def test_the_same_answers_give_the_same_map():
    flow_px, confidence, _ = scattered(0.3)
    once, again = (smoothed(flow_px.copy(), confidence.copy(), (100, 100)) for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(once, again, strict=True))


@pytest.mark.parametrize("hw", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_small_grids(hw: tuple[int, int]):
    flow_px = np.random.default_rng(0).normal(size=(*hw, 2))
    smooth_px, agreement = smoothed(flow_px, np.ones(hw), (30, 40), np.zeros((1, 2)), np.ones((1, 2)))
    assert smooth_px.shape == (*hw, 2)
    assert agreement.shape == hw
    assert np.allclose(smooth_px[0, 0], 1, atol=0.01)


def test_folds_and_tears_of_known_flows():
    mirrored_px = np.stack([-2 * X, 0 * Y], axis=-1)
    swapped_px = np.zeros((*HW, 2))
    swapped_px[:, 16:, 0] = -8  # the right half jumps back over the left one
    assert folded_share(GENTLE_PX) == 0
    assert folded_share(mirrored_px) == 0
    assert folded_share(np.stack([-X, -Y], axis=-1)) == 1  # everything goes to one place
    assert folded_share(swapped_px) == pytest.approx(1 / 31)
    assert torn_share(swapped_px) == pytest.approx(1 / 31)
    assert torn_share(swapped_px, limit=8.5) == 0
    assert torn_share(GENTLE_PX) == 0
    assert folded_share(np.zeros((1, 5, 2))) == torn_share(np.zeros((5, 1, 2))) == 0
