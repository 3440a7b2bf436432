from typing import Any

import numpy as np
import pytest

from nemf.matcher import ImagePair
from pipeline.matching.predictions import InvalidMatchError, prediction_columns

PAIR = ImagePair(
    query_rgb=np.zeros((4, 6, 3), np.uint8),
    reference_rgb=np.zeros((5, 5, 3), np.uint8),
    query_xy_px=np.zeros((2, 2), np.float32),
    dense=True,
)
OUTPUTS = ("keypoints", "flow", "confidence")


class _Answer:
    """A valid match with one of its fields replaced."""

    def __init__(self, **parts: Any) -> None:
        self.reference_xy_px = np.ones((2, 2), np.float32)
        self.point_confidence = np.ones(2, np.float32)
        self.flow_px = np.zeros((4, 6, 2), np.float32)
        self.flow_confidence: Any = np.ones((4, 6), np.float32)
        vars(self).update(parts)


def test_confidence_a_rounding_beyond_one_is_one() -> None:
    answer: Any = _Answer(point_confidence=np.array([1 + 1e-6, -1e-7], np.float32))

    assert prediction_columns(PAIR, answer, OUTPUTS)["point_confidence"] == [1.0, 0.0]


def test_only_the_columns_asked_for() -> None:
    answer: Any = _Answer()

    assert set(prediction_columns(PAIR, answer, ("keypoints",))) == {"reference_xy_px", "answer_grid_hw"}
    assert set(prediction_columns(PAIR, answer, ("flow",))) == {"flow", "flow_hw", "flow_dtype", "flow_scale"}


def test_the_grid_of_the_answers_is_stored_where_the_matcher_has_one() -> None:
    for grid_hw, stored in (((4, 8), [4, 8]), (None, None)):
        answer: Any = _Answer(answer_grid_hw=grid_hw)
        assert prediction_columns(PAIR, answer, ("keypoints",))["answer_grid_hw"] == stored


@pytest.mark.parametrize(
    ("parts", "kind", "message"),
    [
        (
            {"reference_xy_px": np.ones((1, 2), np.float32)},
            "bad_answer",
            r"reference_xy_px must be float of shape \(2, 2\)",
        ),
        ({"reference_xy_px": None}, "bad_answer", "got object of shape"),
        ({"reference_xy_px": np.ones((2, 2), int)}, "bad_answer", "got int64"),
        ({"reference_xy_px": np.full((2, 2), np.nan, np.float32)}, "not_finite", "reference_xy_px has NaN"),
        ({"point_confidence": np.full(2, 7.0)}, "bad_answer", "point_confidence must be in 0..1; got 7 to 7"),
        ({"answer_grid_hw": (4, 0)}, "bad_answer", r"answer_grid_hw must be two .*; got \(4, 0\)"),
        ({"answer_grid_hw": 4}, "bad_answer", "answer_grid_hw must be two whole numbers above 0"),
        ({"answer_grid_hw": (4.5, 4.5)}, "bad_answer", "answer_grid_hw must be two whole numbers above 0"),
        ({"flow_px": None}, "bad_answer", "flow_px must be float"),
        (
            {"flow_px": np.zeros((2, 4, 6), np.float32)},
            "bad_answer",
            r"shape \(4, 6, 2\); got float32 of shape \(2, 4, 6\)",
        ),
        ({"flow_px": np.zeros((5, 5, 2), np.float32)}, "bad_answer", "flow_px must be"),
        ({"flow_confidence": np.full((4, 6), np.inf)}, "not_finite", "flow_confidence"),
    ],
)
def test_an_answer_that_does_not_fit_is_refused(parts: dict[str, Any], kind: str, message: str) -> None:
    answer: Any = _Answer(**parts)

    with pytest.raises(InvalidMatchError, match=message) as error:
        prediction_columns(PAIR, answer, OUTPUTS)

    assert error.value.failure.kind == kind
