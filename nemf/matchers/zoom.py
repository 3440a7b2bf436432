"""A second look, for every matcher: '?zoom=1' behind its name.

The images are matched as they are; then the query is cropped to its points, the reference to the surer answers, and the
crops are matched. A matcher squashes what it sees to one size, so an object that is small in its photograph is seen
larger the second time. It costs a second match of each pair, and no annotation of the reference is used.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from nemf.crop import Crop
from nemf.matcher import RGB, ImagePair, Match, Matcher, Points, salience_of

_CODE_VERSION = 3

_PAIRS_AT_ONCE = 8
"""Pairs whose crops are given to the matcher together."""

# chosen on the validation pairs of Animal-Pose
_MARGIN, _LEAST = 0.6, 0.3
"""A crop extends beyond its points by this margin on every side, in units of their extent: the longer side of their
tight box, and at least this share of the image's longer side."""
_SURER = 0.3
"""The answers crop the reference that are at least as sure as this quantile of the pair's confidences."""
_WHOLE = 0.9
"""Crops that hold more than this share of their images, the product of the two, are not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Look:
    """The second look at a pair."""

    pair: ImagePair
    reference: Crop


class ZoomMatcher(Matcher):
    """Matches with another matcher, looking twice.

    Each point takes the answer of the surer look, by its confidence there, which it keeps; of the second one where both
    are as sure. Answers are mapped back to the whole reference. There is no second look at a pair without points, and
    none where the crops are about the whole images. The query's crop holds all query points; one outside the image
    counts as the nearest one inside.
    A point's answer thus depends on the points that are asked with it. It is a function of the pair and its points
    alone, whatever the batch.
    The flow of a dense pair, its confidence and the score maps are those of the first look: flow is asked for every
    pixel, and a crop has not all of them. answer_grid_hw is None where an answer is of a crop of the reference: the
    cells of a crop are no grid over the whole reference.
    """

    def __init__(self, name: str, matcher: Matcher) -> None:
        self.name = name
        self.matcher = matcher
        configuration = json.dumps(["zoom", _CODE_VERSION, matcher.fingerprint])
        self.fingerprint = hashlib.sha256(configuration.encode()).hexdigest()[:16]

    def salience(self, rgb: RGB) -> np.ndarray | None:
        """That of the matcher: points are chosen before any look."""
        return salience_of(self.matcher, rgb)

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterator[Match]:
        firsts = iter(self.matcher.match_batch(pairs))
        for start in range(0, len(pairs), _PAIRS_AT_ONCE):
            group = pairs[start : start + _PAIRS_AT_ONCE]
            yield from self._look_again(group, list(islice(firsts, len(group))))
        yield from firsts  # none, unless there are too many: whoever called checks

    def _look_again(self, pairs: Sequence[ImagePair], firsts: Sequence[Any]) -> Iterator[Match]:
        """The matches of the pairs, from their first matches, which may be anything: whoever called checks."""
        looks = [_second_look(pair, first) for pair, first in zip(pairs, firsts, strict=False)]
        taken = [look for look in looks if look]
        seconds = list(self.matcher.match_batch([look.pair for look in taken])) if taken else []
        if len(seconds) != len(taken):
            raise ValueError(f"{self.name}: match_batch returned {len(seconds)} matches for {len(taken)} pairs")
        remaining = iter(seconds)
        for first, look in zip(firsts, looks, strict=True):
            yield _answer(first, look, next(remaining)) if look else first


def _second_look(pair: ImagePair, first: Any) -> _Look | None:
    """What to look at after the first match; None where there is nothing to gain, or the match is none."""
    if pair.query_xy_px is None or not len(pair.query_xy_px) or not _is_whole(first, len(pair.query_xy_px)):
        return None
    query = _crop(pair.query_xy_px, pair.query_hw)
    is_sure = first.point_confidence >= np.quantile(first.point_confidence, _SURER)
    reference = _crop(first.reference_xy_px[is_sure], pair.reference_hw)
    if query.share * reference.share > _WHOLE:
        return None
    cropped = replace(
        pair,
        query_rgb=query.cut(pair.query_rgb),
        reference_rgb=reference.cut(pair.reference_rgb),
        query_xy_px=query.to_crop(pair.query_xy_px),
        dense=False,
        score_maps=False,
    )
    return _Look(pair=cropped, reference=reference)


def _answer(first: Match, look: _Look, second: Any) -> Any:
    """The first match, with those points of the second that are as sure; the second if it is none, as whoever called
    checks."""
    if not _is_whole(second, len(first.reference_xy_px)):
        return second
    is_surer = second.point_confidence >= first.point_confidence
    if not is_surer.any():
        return first
    second_xy_px = look.reference.to_image(second.reference_xy_px)
    return replace(
        first,
        reference_xy_px=np.where(is_surer[:, None], second_xy_px, first.reference_xy_px),
        point_confidence=np.where(is_surer, second.point_confidence, first.point_confidence),
        answer_grid_hw=second.answer_grid_hw if look.reference.share == 1 else None,
    )


def _crop(xy_px: Points, hw: tuple[int, int]) -> Crop:
    """The crop around points, which count as the nearest place in the image where they lie outside."""
    inside = np.clip(xy_px.astype(np.float64), 0, [hw[1] - 1, hw[0] - 1])
    low, high = inside.min(axis=0), inside.max(axis=0)
    extent_px = max((high - low).max(), _LEAST * max(hw))
    return Crop.around(low, high, hw, _MARGIN * extent_px)


def _is_whole(match: Any, n_points: int) -> bool:
    """Whether a match has a finite point and confidence for each query point."""
    xy_px = np.asarray(getattr(match, "reference_xy_px", None))
    confidence = np.asarray(getattr(match, "point_confidence", None))
    right_shape = xy_px.shape == (n_points, 2) and confidence.shape == (n_points,)
    are_numbers = all(np.issubdtype(array.dtype, np.floating) for array in (xy_px, confidence))
    return right_shape and are_numbers and bool(np.isfinite(xy_px).all() and np.isfinite(confidence).all())
