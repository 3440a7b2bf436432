"""A match to its columns of MATCHES. Matchers may be third-party code, so a match is checked first."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nemf.matcher import ImagePair, Match
from pipeline.runs.flow_codec import encode_confidence, encode_flow
from schemas.failures import FailureError

_ROUNDING = 1e-5


class InvalidMatchError(FailureError):
    """A match that cannot be stored, of kind bad_answer or not_finite."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__("match", kind, message)


def prediction_columns(pair: ImagePair, match: Match, outputs: Sequence[str]) -> dict[str, Any]:
    """The columns of MATCHES that `outputs` names. Raises InvalidMatchError if the match does not fit the pair."""
    n_points = 0 if pair.query_xy_px is None else len(pair.query_xy_px)
    hw = pair.query_rgb.shape[:2]
    columns: dict[str, Any] = {}
    with_confidence = "confidence" in outputs
    if "keypoints" in outputs:
        columns["reference_xy_px"] = _checked(match, "reference_xy_px", (n_points, 2)).tolist()
        columns["answer_grid_hw"] = _answer_grid(match)
        if with_confidence:
            columns["point_confidence"] = _checked_share(match, "point_confidence", (n_points,)).tolist()
    if "flow" in outputs:
        columns |= encode_flow(_checked(match, "flow_px", (*hw, 2)))
        if with_confidence and match.flow_confidence is not None:
            columns["flow_confidence"] = encode_confidence(_checked_share(match, "flow_confidence", hw))
    return columns


def _answer_grid(match: Match) -> list[int] | None:
    """The match's answer_grid_hw: two whole numbers above 0, or None."""
    grid_hw = getattr(match, "answer_grid_hw", None)
    if grid_hw is None:
        return None
    array = np.asarray(grid_hw)
    if array.shape != (2,) or not np.issubdtype(array.dtype, np.integer) or array.min() < 1:
        raise InvalidMatchError("bad_answer", f"answer_grid_hw must be two whole numbers above 0; got {grid_hw!r}")
    return [int(cells) for cells in array]


def _checked(match: Match, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The match's array `name`: finite floats of the given shape."""
    array = np.asarray(getattr(match, name, None))
    if array.shape != shape or not np.issubdtype(array.dtype, np.floating):
        raise InvalidMatchError(
            "bad_answer", f"{name} must be float of shape {shape}; got {array.dtype} of shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise InvalidMatchError("not_finite", f"{name} has NaN or infinity")
    return array


def _checked_share(match: Match, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The match's array `name`, of values in 0..1."""
    array = _checked(match, name, shape)
    if array.size and not (array.min() >= -_ROUNDING and array.max() <= 1 + _ROUNDING):
        raise InvalidMatchError("bad_answer", f"{name} must be in 0..1; got {array.min():g} to {array.max():g}")
    return array.clip(0, 1)
