"""The scores of keypoints near their true match and elsewhere, which the keypoint average precision is made of.

The matcher sees the points alone; its score maps are compared with the truth here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nemf.matcher import ImagePair, Match, Points, as_points
from pipeline.matching.score_maps import centres_px, checked_maps
from schemas.matches import SCORE_ALPHAS

_MAX_SCORE = float(np.finfo(np.float16).max)


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredKeypoints:
    """The labelled keypoints of a query image, and where they truly are in the reference image."""

    keypoint_id: list[str]
    query_xy_px: Points
    truth_xy_px: dict[str, np.ndarray]
    """(x, y) of the reference's keypoints by id."""
    base_px: float
    """T: the longest side of the reference's box."""


def scored_keypoints(pair: Mapping[str, Any], query: str, reference: str) -> ScoredKeypoints | None:
    """The keypoints of a PAIRS row to score; None where the reference has no box or a side no keypoint ids.

    query, reference: the sides of the pair, 'source' and 'target' or the other way round. A side's keypoints are all
    labelled ones, where the row knows them, else those of the pair.
    Raises ValueError for keypoints that do not fit their ids, ids that repeat, and a box without extent.
    """
    query_points, reference_points = _labelled(pair, query), _labelled(pair, reference)
    box_xyxy = pair[f"{reference}_box_xyxy"]
    if query_points is None or reference_points is None or box_xyxy is None:
        return None
    base_px = max(box_xyxy[2] - box_xyxy[0], box_xyxy[3] - box_xyxy[1])
    if not 0 < base_px < np.inf:
        raise ValueError(f"{reference}_box_xyxy must have an extent; got {box_xyxy}")
    keypoint_id, query_xy_px = query_points
    truth_xy_px = dict(zip(*reference_points, strict=True))
    return ScoredKeypoints(
        keypoint_id=keypoint_id, query_xy_px=query_xy_px, truth_xy_px=truth_xy_px, base_px=float(base_px)
    )


def _labelled(pair: Mapping[str, Any], side: str) -> tuple[list[str], Points] | None:
    """The ids and places of one side's labelled keypoints; None where they have no ids."""
    names = (f"{side}_all_keypoint_id", f"{side}_all_xy_px")
    if any(pair[name] is None for name in names):
        names = ("keypoint_id", f"{side}_xy_px")
    ids, xy_px = (pair[name] for name in names)
    if ids is None or xy_px is None:
        return None
    try:
        points = as_points(np.array([point or (None, None) for point in xy_px], np.float32))
    except ValueError as error:
        raise ValueError(f"{names[1]}: {error}") from error
    if len(ids) != len(points) or len(set(ids)) < len(ids) or None in ids:
        raise ValueError(f"{names[0]} must be one id for each of {len(points)} points, each once; got {ids}")
    return ids, points


def score_columns(pair: ImagePair, match: Match, keypoints: ScoredKeypoints) -> dict[str, Any]:
    """The columns scored_keypoint_id, score_inside, score_outside and score_lowest of MATCHES.

    Raises InvalidMatchError for a match without score maps, or with such that do not fit the keypoints.
    """
    hw = (pair.reference_rgb.shape[0], pair.reference_rgb.shape[1])
    maps = checked_maps(match, len(keypoints.keypoint_id), "scores")
    map_hw = (maps.shape[1], maps.shape[2])
    cells_xy_px = centres_px(maps, hw)
    inside: list[list[float | None]] = []
    outside: list[list[float | None]] = []
    for keypoint_id, scores in zip(keypoints.keypoint_id, maps, strict=True):
        truth_xy_px = keypoints.truth_xy_px.get(keypoint_id)
        if truth_xy_px is None:
            near = [np.zeros(map_hw, bool)] * len(SCORE_ALPHAS)
        else:
            distance_px = np.linalg.norm(cells_xy_px - truth_xy_px, axis=2)
            least_px = distance_px.min()
            near = [distance_px <= max(alpha * keypoints.base_px, least_px) for alpha in SCORE_ALPHAS]
        inside.append([_best(scores[is_near]) for is_near in near])
        outside.append([_best(scores[~is_near]) for is_near in near])
    return {
        "scored_keypoint_id": keypoints.keypoint_id,
        "score_inside": inside,
        "score_outside": outside,
        "score_lowest": _rounded(maps.min()) if maps.size else None,
    }


def _best(scores: np.ndarray) -> float | None:
    """The greatest score; None of none."""
    return _rounded(scores.max()) if scores.size else None


def _rounded(score: float) -> float:
    """A score rounded to float16; the greatest finite one of these stands for all above."""
    return float(np.float16(np.clip(score, -_MAX_SCORE, _MAX_SCORE)))
