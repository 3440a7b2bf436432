"""Correct keypoints, of which PCK is the percentage: those with an error d_k <= alpha T.

Keypoints of many pairs are stored one after another: `error_px` (N,) holds the errors of pair 0, then of pair 1, ...,
and `n_points` (P,) is how many belong to each, so that N is its sum. A pair may have none. What T is, and which image's
keypoints are the query, is a protocol's choice; averages are those of pipeline.evaluation.pck_sums.
"""

import numpy as np
from jaxtyping import Bool, Float, Int


def errors_px(
    predicted_xy_px: Float[np.ndarray, "n 2"], truth_xy_px: Float[np.ndarray, "n 2"]
) -> Float[np.ndarray, " n"]:
    """Distance of each prediction from the truth, in pixels; infinite where a prediction is not finite."""
    difference = np.asarray(predicted_xy_px, np.float64) - np.asarray(truth_xy_px, np.float64)
    distance = np.hypot(difference[:, 0], difference[:, 1])
    return np.where(np.isfinite(distance), distance, np.inf)


def longest_side_px(box_xyxy: Float[np.ndarray, "p 4"]) -> Float[np.ndarray, " p"]:
    """max(x_max - x_min, y_max - y_min) of each box."""
    box = np.asarray(box_xyxy, np.float64)
    return np.maximum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])


def tight_boxes_xyxy(xy_px: Float[np.ndarray, "n 2"], n_points: Int[np.ndarray, " p"]) -> Float[np.ndarray, "p 4"]:
    """The smallest box around each pair's keypoints. Every pair must have at least one."""
    assert (n_points > 0).all(), "a box needs a keypoint"
    starts = np.cumsum(n_points) - n_points
    if len(starts) == 0:
        return np.zeros((0, 4), xy_px.dtype)
    low, high = np.minimum.reduceat(xy_px, starts), np.maximum.reduceat(xy_px, starts)
    return np.concatenate([low, high], axis=1)


def is_correct(
    error_px: Float[np.ndarray, " n"], base_px: Float[np.ndarray, " n"], alpha: float, *, inclusive: bool = True
) -> Bool[np.ndarray, " n"]:
    """Whether each error is at most alpha T, or below it where that is not `inclusive`; `base_px` is T per keypoint."""
    return error_px <= alpha * base_px if inclusive else error_px < alpha * base_px


def count_correct(correct: Bool[np.ndarray, " n"], n_points: Int[np.ndarray, " p"]) -> Int[np.ndarray, " p"]:
    """The number of correct keypoints of each pair."""
    until = np.concatenate([[0], np.cumsum(correct, dtype=np.int64)])
    ends = np.cumsum(n_points)
    return until[ends] - until[ends - n_points]
