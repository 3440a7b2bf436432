"""Output `margin`: planted scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import skimage
from make import encoded, noise_rgb, pair_row

from nemf import load_matcher
from nemf.matcher import ImagePair, Match, Matcher
from nemf.matchers.identity import IdentityMatcher
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import MatchOptions
from schemas.pairs import PAIRS

IMAGE = encoded(noise_rgb(1, (50, 100)))
OPTIONS = MatchOptions(outputs=("keypoints", "confidence", "margin"))


class Planted(IdentityMatcher):
    """Answers every point where it is, with these scores."""

    def __init__(self, scores: np.ndarray) -> None:
        super().__init__()
        self.scores = scores
        self.batches: list[list[ImagePair]] = []

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        """The score map is the same for every point."""
        self.batches.append(list(pairs))
        matches = super().match_batch(pairs)
        for pair, match in zip(pairs, matches, strict=True):
            if pair.score_maps:
                maps = np.repeat(self.scores[None], len(match.reference_xy_px), axis=0)
                object.__setattr__(match, "score_maps", maps)
        return matches


def _match(points: list[list[float]], matcher: Matcher, options: MatchOptions = OPTIONS) -> dict[str, Any]:
    pair = pair_row("1", source_image=IMAGE, target_image=IMAGE, source_xy_px=points, target_xy_px=points)
    (chunk,) = decode_rows(pa.Table.from_pylist([pair], PAIRS), None)
    (row,) = match_chunk(matcher, chunk, options, fingerprint="f", attempt=1).to_pylist()
    return row


def test_margins_by_hand():
    """One cell is one pixel, and the radius 6 of them: 0.06 of 100 pixels."""
    scores = np.zeros((50, 100), np.float32)
    scores[20, 30], scores[20, 60] = 0.75, 0.5
    row = _match([[30, 20], [24, 20], [23, 20], [60, 26], [80, 40]], Planted(scores))
    assert row["status"] == "ok"
    # the peak; as far from it as may be; one pixel farther; the second peak; neither
    assert row["point_margin"] == [0.25, 0.25, -0.75, -0.25, -0.75]


def test_the_nearest_cell_is_near_however_far():
    """Cells of 50 x 25 pixels, whose centres are at 24.5, 74.5 in x and 12, 37 in y."""
    scores = np.array([[4, 1], [2, 0]], np.float32)
    assert _match([[24.5, 12], [0, 0], [99, 49], [-500, 0]], Planted(scores))["point_margin"] == [2, 2, -4, 2]


def test_where_every_cell_is_near_there_is_no_margin():
    assert _match([[9, 9], [1, 2]], Planted(np.ones((1, 1), np.float32)))["point_margin"] == [None, None]
    assert _match([], Planted(np.ones((1, 1), np.float32)))["point_margin"] == []


def test_it_comes_with_the_match_and_changes_nothing_else():
    matcher = Planted(np.eye(5, dtype=np.float32))
    row = _match([[9, 9]], matcher)
    assert len(matcher.batches) == 1
    plain = _match([[9, 9]], matcher, MatchOptions())
    assert {name for name in row if row[name] != plain[name]} <= {"point_margin", "milliseconds"}
    assert plain["point_margin"] is None
    back = _match([[9, 9]], matcher, MatchOptions(outputs=("keypoints", "cycle", "margin")))
    assert back["point_margin"] == row["point_margin"]
    assert [pair.score_maps for batch in matcher.batches for pair in batch] == [True, False, True, False]


@pytest.mark.parametrize(
    ("matcher", "kind", "message"),
    [
        (IdentityMatcher(), "bad_answer", "the matcher has no scores: leave margin out of --outputs"),
        (Planted(np.zeros(3, np.float32)), "bad_answer", r"score_maps must be float of shape \(1, h, w\)"),
        (
            Planted(np.zeros((2, 2), np.int64)),
            "bad_answer",
            r"score_maps must be float of shape \(1, h, w\); got int64",
        ),
        (Planted(np.full((2, 2), np.inf, np.float32)), "not_finite", "score_maps has NaN or infinity"),
    ],
)
def test_scores_that_cannot_be_are_an_error_of_the_pair(matcher: Matcher, kind: str, message: str):
    row = _match([[9, 9]], matcher)
    assert (row["status"], row["error_stage"], row["error_kind"]) == ("error", "match", kind)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(row["error_message"])


@pytest.mark.parametrize("name", ["nearest-neighbour:dense-sift?image_size=64", "nemf-small?patchmatch_steps=1"])
def test_a_point_is_ahead_in_its_own_image_and_twins_are_not(name: str):
    """An eye of a cat is searched in its own photograph; then in its left half twice, side by side."""
    matcher = load_matcher(name, device="cpu")
    rgb = skimage.data.chelsea()[:, :448]
    twice = np.concatenate([rgb[:, :224]] * 2, axis=1)
    margins = []
    for image in (rgb, twice):
        images = {"source_image": encoded(image), "target_image": encoded(image)}
        pair = pair_row("1", **images, source_xy_px=[[172, 113]], target_xy_px=[[172, 113]])
        (chunk,) = decode_rows(pa.Table.from_pylist([pair], PAIRS), None)
        (row,) = match_chunk(matcher, chunk, OPTIONS, fingerprint="f", attempt=1).to_pylist()
        margins += row["point_margin"]
    assert margins[0] > margins[1]
