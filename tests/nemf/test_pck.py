import numpy as np
import pytest

from nemf import pck


def _xy(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float64).reshape(-1, 2)


def test_one_of_four_points_moved_is_wrong():
    truth = _xy((10, 10), (40, 10), (10, 30), (40, 30))
    predicted = truth.copy()
    predicted[2] += 5
    error_px = pck.errors_px(predicted, truth)
    correct = pck.is_correct(error_px, np.full(4, 70.0), alpha=0.1)  # 7.0 px; the error is 7.07
    assert pck.count_correct(correct, np.array([4])).tolist() == [3]


def test_an_error_of_exactly_the_threshold_is_correct():
    error_px = pck.errors_px(_xy((3, 4)), _xy((0, 0)))
    assert error_px.tolist() == [5.0]
    assert pck.is_correct(error_px, np.array([50.0]), 0.1).tolist() == [True]
    assert pck.is_correct(error_px, np.array([49.9]), 0.1).tolist() == [False]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_prediction_that_is_not_finite_is_infinitely_wrong(bad: float):
    error_px = pck.errors_px(_xy((bad, 1), (1, bad), (1, 1)), _xy((1, 1), (1, 1), (1, 1)))
    assert error_px.tolist() == [np.inf, np.inf, 0.0]


def test_longest_side_of_boxes():
    boxes = np.array([[10, 20, 40, 30], [0, 0, 5, 50]], np.float64)
    assert pck.longest_side_px(boxes).tolist() == [30.0, 50.0]


def test_tight_boxes_pair_by_pair():
    xy = _xy((5, 7), (1, 9), (3, 2), (8, 8))
    boxes = pck.tight_boxes_xyxy(xy, np.array([3, 1]))
    assert boxes.tolist() == [[1, 2, 5, 9], [8, 8, 8, 8]]
    assert pck.tight_boxes_xyxy(_xy(), np.array([], np.int64)).shape == (0, 4)


def test_correct_keypoints_are_counted_pair_by_pair():
    correct = np.array([True, True, True, False, False])
    assert pck.count_correct(correct, np.array([0, 4, 0, 1, 0])).tolist() == [0, 3, 0, 0, 0]
