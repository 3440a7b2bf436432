"""The second look, with a planted matcher whose answers are known.

A picture holds an object of pixels that are all of different colours on a grey ground; a pixel's match is the pixel of
its colour. The planted matcher finds it exactly where the object is large in its image, and is off by a known shift
where it is small.
"""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nemf import ImagePair, Match, Matcher, load_matcher
from nemf.matchers.zoom import ZoomMatcher

GREY = 255
SHIFT_PX = np.array([5, -3], np.float32)


def _object(height: int, width: int) -> np.ndarray:
    """Colours that are all different: (column, row, 0)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.zeros_like(x)], axis=2).astype(np.uint8)


def _picture(hw: tuple[int, int], object_hw: tuple[int, int], at_xy: tuple[int, int]) -> np.ndarray:
    rgb = np.full((*hw, 3), GREY, np.uint8)
    rgb[at_xy[1] : at_xy[1] + object_hw[0], at_xy[0] : at_xy[0] + object_hw[1]] = _object(*object_hw)
    return rgb


def _first(mask: np.ndarray) -> np.ndarray:
    """The (x, y) of the first pixel that is set, (0, 0) where there is none."""
    places = np.argwhere(mask)[:, ::-1]
    return places[0] if len(places) else np.zeros(2, int)


class FindsLargeObjects(Matcher):
    """Exact where the object takes a third or more of the reference's longer side, else off by SHIFT_PX."""

    name, fingerprint = "finds large objects", "planted"

    def __init__(self, confidence: Sequence[float] = (), large_confidence: float = 0.8) -> None:
        self.confidence = confidence
        """Of the first points of a pair; the others' is 0.8, or large_confidence where the object is large."""
        self.large_confidence = large_confidence
        self.small_confidence: np.ndarray | None = None
        """Of all points where the object is small, instead."""
        self.seen: list[ImagePair] = []

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        self.seen += pairs
        return [self._match(pair) for pair in pairs]

    def _match(self, pair: ImagePair) -> Match:
        points = np.zeros((0, 2), np.float32) if pair.query_xy_px is None else pair.query_xy_px
        last = np.array([pair.query_rgb.shape[1] - 1, pair.query_rgb.shape[0] - 1])
        columns, rows = np.clip(np.round(points), 0, last).astype(int).T
        colours = pair.query_rgb[rows, columns]
        found = [_first((pair.reference_rgb == colour).all(axis=2)) for colour in colours]
        answers = np.array(found, np.float32).reshape(-1, 2) + (points - np.round(points))
        ys, xs = np.nonzero((pair.reference_rgb != GREY).any(axis=2))
        is_large = 3 * max(np.ptp(ys), np.ptp(xs)) >= max(pair.reference_rgb.shape[:2])
        confidence = np.full(len(points), self.large_confidence if is_large else 0.8, np.float32)
        confidence[: len(self.confidence)] = self.confidence[: len(points)]
        if self.small_confidence is not None and not is_large:
            confidence = self.small_confidence
        hw = pair.query_rgb.shape[:2]
        return Match(
            reference_xy_px=answers + (0 if is_large else SHIFT_PX),
            point_confidence=confidence,
            flow_px=np.ones((*hw, 2), np.float32) if pair.dense else None,
            flow_confidence=np.ones(hw, np.float32) if pair.dense else None,
            answer_grid_hw=(40, 40),
            score_maps=np.ones((len(points), *hw), np.float32) if pair.score_maps else None,
        )


QUERY = _picture((203, 301), (60, 70), (150, 41))
REFERENCE = _picture((251, 187), (60, 50), (97, 160))
ON_OBJECT = np.array([[0, 0], [49, 59], [20.25, 30.5], [49, 0]], np.float32)
POINTS = ON_OBJECT + np.array([150, 41], np.float32)
TRUTH = ON_OBJECT + np.array([97, 160], np.float32)


def _pair(**changes) -> ImagePair:
    return replace(ImagePair(query_rgb=QUERY, reference_rgb=REFERENCE, query_xy_px=POINTS, pair_id="p"), **changes)


def _one(matcher: Matcher, pair: ImagePair) -> Match:
    (match,) = matcher.match_batch([pair])
    return match


def test_a_small_object_is_found_by_the_second_look_at_its_exact_place():
    planted = FindsLargeObjects()
    np.testing.assert_array_equal(_one(planted, _pair()).reference_xy_px, TRUTH + SHIFT_PX)
    match = _one(ZoomMatcher("zoomed", planted), _pair())
    np.testing.assert_array_equal(match.reference_xy_px, TRUTH)
    assert match.answer_grid_hw is None


def test_it_looks_at_crops_that_hold_all_points_and_the_surer_answers():
    planted = FindsLargeObjects()
    list(ZoomMatcher("zoomed", planted).match_batch([_pair()]))
    first, second = planted.seen
    assert first.query_rgb is QUERY
    assert first.reference_rgb is REFERENCE
    # points from (150, 41) to (199, 100): less than 0.3 of 301 px, of which 0.6 more on each side
    np.testing.assert_array_equal(second.query_rgb, QUERY[0:156, 95:255])
    np.testing.assert_array_equal(second.query_xy_px, POINTS - [95, 0])
    # answers, 5 and -3 px off, from (102, 157) to (151, 216): 0.6 of 0.3 of 251 px more
    np.testing.assert_array_equal(second.reference_rgb, REFERENCE[111:251, 56:187])
    assert second.pair_id == "p"


def test_answers_that_are_not_sure_do_not_widen_the_crop():
    planted = FindsLargeObjects(confidence=[0.1])
    list(ZoomMatcher("zoomed", planted).match_batch([_pair(query_xy_px=POINTS[[3, 0, 1, 2]])]))
    assert planted.seen[1].reference_rgb.shape == REFERENCE[111:251, 56:187].shape
    planted = FindsLargeObjects(confidence=[0.1])
    list(ZoomMatcher("zoomed", planted).match_batch([_pair(query_xy_px=POINTS[[1, 0, 2, 3]])]))
    # without (151, 216): from (102, 157) to (151, 187.5)
    np.testing.assert_array_equal(planted.seen[1].reference_rgb, REFERENCE[111:234, 56:187])


@pytest.mark.parametrize("query_hw", [(203, 301), (64, 64), (1, 301), (2, 2)])
def test_no_point_is_lost_wherever_it_lies(query_hw: tuple[int, int]):
    random = np.random.default_rng(0)
    height, width = query_hw
    for n_points in (1, 2, 9):
        points = random.uniform([-20, -20], [width + 20, height + 20], (n_points, 2)).astype(np.float32)
        planted = FindsLargeObjects()
        pair = _pair(query_rgb=np.zeros((*query_hw, 3), np.uint8), query_xy_px=points)
        planted_reference = np.zeros((90, 400, 3), np.uint8)
        list(ZoomMatcher("zoomed", planted).match_batch([replace(pair, reference_rgb=planted_reference)]))
        cropped = planted.seen[-1]
        inside = np.clip(points, 0, [width - 1, height - 1])
        # where the nearest point inside the image is, the nearest inside the crop is too
        crop_hw = cropped.query_rgb.shape[:2]
        in_crop = np.clip(cropped.query_xy_px, 0, [crop_hw[1] - 1, crop_hw[0] - 1])
        np.testing.assert_allclose(in_crop - (cropped.query_xy_px - points), inside, atol=1e-4)


def test_pairs_that_keep_their_first_answer():
    large_query, large_reference = _picture((70, 80), (60, 70), (5, 5)), _picture((62, 60), (60, 50), (1, 1))
    crops_are_whole = _pair(query_rgb=large_query, reference_rgb=large_reference, query_xy_px=ON_OBJECT + np.float32(5))
    for pair in (crops_are_whole, _pair(query_xy_px=None), _pair(query_xy_px=np.zeros((0, 2), np.float32))):
        planted = FindsLargeObjects()
        match = _one(ZoomMatcher("zoomed", planted), pair)
        assert len(planted.seen) == 1
        np.testing.assert_array_equal(match.reference_xy_px, _one(planted, pair).reference_xy_px)
        assert match.answer_grid_hw == (40, 40)


def test_each_point_takes_the_surer_look():
    """The second look's confidence is 0.8 of every point."""
    planted = FindsLargeObjects()
    is_first = np.array([True, False, False, True])
    for small_confidence in ([0.81, 0.8, 0.2, 0.9], [0.81, 0.79, 0.8, 0.99]):
        planted.small_confidence = np.array(small_confidence, np.float32)
        match = _one(ZoomMatcher("zoomed", planted), _pair())
        np.testing.assert_array_equal(match.reference_xy_px, TRUTH + SHIFT_PX * is_first[:, None])
        surer = np.maximum(small_confidence, 0.8).astype(np.float32)
        np.testing.assert_array_equal(match.point_confidence, surer)
        assert match.answer_grid_hw is None


def test_a_second_look_that_is_less_sure_of_every_point_changes_nothing():
    planted = FindsLargeObjects(large_confidence=0.7)
    match = _one(ZoomMatcher("zoomed", planted), _pair())
    np.testing.assert_array_equal(match.reference_xy_px, TRUTH + SHIFT_PX)
    assert match.answer_grid_hw == (40, 40)
    assert len(planted.seen) == 2


def test_flow_and_score_maps_are_of_the_first_look_and_change_no_point():
    zoomed = ZoomMatcher("zoomed", FindsLargeObjects())
    match = _one(zoomed, _pair(dense=True, score_maps=True))
    assert match.flow_px is not None
    assert match.flow_px.shape == (*QUERY.shape[:2], 2)
    assert match.score_maps is not None
    np.testing.assert_array_equal(match.reference_xy_px, TRUTH)


def test_the_same_answer_in_any_batch():
    zoomed = ZoomMatcher("zoomed", load_matcher("nearest-neighbour:dense-sift?image_size=64", device="cpu"))
    pairs = [_pair(query_xy_px=POINTS[:k] if k else None, pair_id=str(k)) for k in range(5)] * 4
    together = list(zoomed.match_batch(pairs))
    for pair, match in zip(pairs, together, strict=True):
        alone = _one(zoomed, pair)
        np.testing.assert_array_equal(match.reference_xy_px, alone.reference_xy_px)
        np.testing.assert_array_equal(match.point_confidence, alone.point_confidence)


def test_an_answer_depends_on_the_points_asked_with_it():
    """With the points of another object in a far corner, the crop is the whole image and the object stays small."""
    far = _pair(query_xy_px=np.concatenate([POINTS, [[0, 202]]]).astype(np.float32))
    reference = REFERENCE.copy()
    far = replace(far, reference_rgb=reference)
    reference[250, 0] = GREY
    alone, with_far = (_one(ZoomMatcher("zoomed", FindsLargeObjects()), pair) for pair in (_pair(), far))
    assert not np.array_equal(alone.reference_xy_px, with_far.reference_xy_px[: len(POINTS)])


class Broken(FindsLargeObjects):
    """Gives `answer` instead of a match, unless it is None, and leaves out the last `short` matches."""

    def __init__(self, short: int = 0, answer: Any = None) -> None:
        super().__init__()
        self.short, self.answer = short, answer

    def match_batch(self, pairs):
        matches = [self.answer or match for match in super().match_batch(pairs)]
        return matches[: len(matches) - self.short]


@pytest.mark.parametrize(
    ("reference_xy_px", "point_confidence"),
    [
        (np.full((4, 2), np.nan, np.float32), np.ones(4, np.float32)),
        (np.ones((3, 2), np.float32), np.ones(3, np.float32)),
        (np.ones((4, 2), np.float32), None),
        (np.full((4, 2), "x"), np.ones(4, np.float32)),
    ],
)
def test_an_answer_that_is_none_is_passed_on_as_it_is(reference_xy_px: Any, point_confidence: Any):
    """Whoever called the matcher checks, and says what is wrong with the pair."""
    answer = SimpleNamespace(reference_xy_px=reference_xy_px, point_confidence=point_confidence)
    assert list(ZoomMatcher("zoomed", Broken(answer=answer)).match_batch([_pair()])) == [answer]


def test_a_second_answer_that_is_none_is_passed_on_too():
    answer = SimpleNamespace(reference_xy_px=np.full((4, 2), np.nan, np.float32), point_confidence=np.ones(4))

    class BreaksDown(FindsLargeObjects):
        def match_batch(self, pairs):
            return [answer for _ in pairs] if self.seen else super().match_batch(pairs)

    assert list(ZoomMatcher("zoomed", BreaksDown()).match_batch([_pair()])) == [answer]


def test_missing_matches_are_missing():
    assert list(ZoomMatcher("zoomed", Broken(short=1)).match_batch([_pair()])) == []
    with pytest.raises(ValueError, match="zoomed: match_batch returned 0 matches for 1 pairs"):
        list(ZoomMatcher("zoomed", Broken(short=1)).match_batch([_pair(), _pair()]))


def test_the_fingerprint_is_of_the_look_and_of_the_matcher():
    other = FindsLargeObjects()
    other.fingerprint = "other"
    fingerprints = {matcher.fingerprint for matcher in (FindsLargeObjects(), other)}
    fingerprints |= {ZoomMatcher("zoomed", matcher).fingerprint for matcher in (FindsLargeObjects(), other)}
    assert len(fingerprints) == 4
