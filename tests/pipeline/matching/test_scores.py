"""Output `scores`: the best scores near the truth and elsewhere."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from make import encoded, noise_rgb, pair_row

from nemf import load_matcher
from nemf.matcher import ImagePair, Match, Matcher
from nemf.matchers.identity import IdentityMatcher
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import MatchOptions
from schemas.pairs import PAIRS

SOURCE, TARGET = encoded(noise_rgb(1, (10, 20))), encoded(noise_rgb(2, (40, 80)))
OPTIONS = MatchOptions(outputs=("keypoints", "confidence", "scores"))
SCORE_COLUMNS = ("scored_keypoint_id", "score_inside", "score_outside", "score_lowest")


class Planted(IdentityMatcher):
    """Scores of 2 x 4 cells, whose centres are 9.5, 29.5, 49.5, 69.5 in x and 9.5, 29.5 in y of the target."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[ImagePair] = []

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        """The score of a cell is its number, 0 to 7 row by row, plus 10 times the x of the query point."""
        self.asked += pairs
        matches = super().match_batch(pairs)
        for pair, match in zip(pairs, matches, strict=True):
            if pair.score_maps:
                assert pair.query_xy_px is not None
                cells = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
                object.__setattr__(match, "score_maps", cells + 10 * pair.query_xy_px[:, :1, None])
        return matches


def _pair(**columns: Any) -> dict[str, Any]:
    points: dict[str, Any] = {
        "source_xy_px": [[1.0, 2.0]],
        "target_xy_px": [[29.5, 9.5]],
        "keypoint_id": ["nose"],
        "source_all_xy_px": [[1.0, 2.0], [2.0, 2.0], [3.0, 3.0]],
        "source_all_keypoint_id": ["nose", "tail", "paw"],
        "target_all_xy_px": [[29.5, 9.5], [59.5, 29.5]],
        "target_all_keypoint_id": ["nose", "paw"],
        "target_box_xyxy": [0, 0, 200, 30],
    }
    return pair_row("1", **{"source_image": SOURCE, "target_image": TARGET, **points, **columns})


def _match(*rows: dict[str, Any], matcher: Matcher | None = None, options: MatchOptions = OPTIONS) -> list[Any]:
    (chunk,) = decode_rows(pa.Table.from_pylist(list(rows), PAIRS), None)
    return match_chunk(matcher or Planted(), chunk, options, fingerprint="f", attempt=1).to_pylist()


def test_the_best_scores_by_hand():
    """T is 200, so the radii are 2, 10 and 20 pixels. The nose is on the centre of cell 1 and 20 pixels from cells 0, 2
    and 5; the paw is 10 pixels from cells 6 and 7, which are the nearest; the target has no tail."""
    (row,) = _match(_pair())
    assert row["status"] == "ok"
    assert row["scored_keypoint_id"] == ["nose", "tail", "paw"]
    assert row["score_inside"] == [[11, 11, 15], [None] * 3, [37, 37, 37]]
    assert row["score_outside"] == [[17, 17, 17], [27] * 3, [35, 35, 35]]
    assert row["score_lowest"] == 10


def test_where_no_others_are_labelled_the_pairs_own_points_are_scored():
    none = dict.fromkeys(("source_all_xy_px", "source_all_keypoint_id", "target_all_xy_px", "target_all_keypoint_id"))
    (row,) = _match(_pair(**none))
    assert row["scored_keypoint_id"] == ["nose"]
    assert (row["score_inside"], row["score_outside"]) == ([[11, 11, 15]], [[17, 17, 17]])


@pytest.mark.parametrize("column", ["target_box_xyxy", "keypoint_id"])
def test_without_a_box_or_ids_the_columns_are_null(column: str):
    none = dict.fromkeys(("source_all_xy_px", "source_all_keypoint_id"))
    matcher = Planted()
    (row,) = _match(_pair(**none, **{column: None}), matcher=matcher)
    assert (row["status"], [row[name] for name in SCORE_COLUMNS]) == ("ok", [None] * 4)
    assert not any(pair.score_maps for pair in matcher.asked)


def test_scores_are_rounded_to_float16_and_stay_finite():
    (row,) = _match(_pair(source_all_xy_px=[[204.8, 2.0], [-1e6, 2.0], [3.0, 3.0]]))
    assert row["score_outside"][0] == [2056.0] * 3  # 2055, which float16 does not have
    assert row["score_outside"][1] == [-65504.0] * 3


def test_one_cell_has_none_outside():
    class OneCell(Planted):
        """A matcher with one score for the whole image."""

        def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
            matches = super().match_batch(pairs)
            for match in matches:
                if match.score_maps is not None:
                    object.__setattr__(match, "score_maps", match.score_maps[:, :1, :1])
            return matches

    (row,) = _match(_pair(target_box_xyxy=[0, 0, 1000, 1]), matcher=OneCell())
    assert row["score_inside"][0] == [10, 10, 10]
    assert row["score_outside"][0] == [None, None, None]


def test_a_matcher_without_scores_is_an_error_of_its_pairs():
    rows = _match(_pair(), _pair(target_box_xyxy=None), matcher=IdentityMatcher())
    assert [row["status"] for row in rows] == ["error", "ok"]
    assert (rows[0]["error_stage"], rows[0]["error_kind"]) == ("match", "bad_answer")
    assert rows[0]["error_message"].startswith("the matcher has no scores")


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"source_all_keypoint_id": ["nose", "tail"]}, "source_all_keypoint_id must be one id for each of 3 points"),
        ({"target_all_keypoint_id": ["nose", "nose"]}, "target_all_keypoint_id must be one id"),
        ({"target_all_xy_px": [[1.0, float("nan")], [2.0, 2.0]]}, "target_all_xy_px: points must be finite"),
        ({"target_box_xyxy": [5, 5, 5, 5]}, "target_box_xyxy must have an extent"),
    ],
)
def test_keypoints_that_cannot_be_scored_are_an_error(columns: dict[str, Any], why: str):
    rows = _match(_pair(**columns), _pair())
    assert [row["status"] for row in rows] == ["error", "ok"]
    assert (rows[0]["error_stage"], rows[0]["error_kind"]) == ("manifest", "bad_keypoints")
    assert rows[0]["error_message"].startswith(why)
    assert _match(_pair(**columns), options=MatchOptions())[0]["status"] == "ok"


def test_other_columns_are_as_without_scores_and_the_truth_is_not_shown():
    matcher = Planted()
    both = MatchOptions(outputs=OPTIONS.outputs, directions=("source_to_target", "target_to_source"), batch_pairs=2)
    rows = _match(_pair(), _pair(target_box_xyxy=None), _pair(), matcher=matcher, options=both)
    plain = _match(
        *[_pair()] * 3, options=MatchOptions(directions=("source_to_target", "target_to_source"), batch_pairs=2)
    )
    ignored = {*SCORE_COLUMNS, "milliseconds"}
    for row, other in zip(rows, plain, strict=True):
        assert {name: row[name] for name in row.keys() - ignored} == {
            name: other[name] for name in row.keys() - ignored
        }
    # the source has no box: the other direction has no scores
    assert [row["score_inside"] is None for row in rows] == [False, True, True, True, False, True]
    asked = [pair.query_xy_px.tolist() for pair in matcher.asked if pair.score_maps and pair.query_xy_px is not None]
    assert asked == [[[1, 2], [2, 2], [3, 3]]] * 2


def test_nearest_neighbour_finds_a_point_in_its_own_image():
    """The best score of all is within the radius, as the image is searched for itself."""
    pair = _pair(source_image=TARGET, source_xy_px=[[29.5, 9.5]], source_all_xy_px=None, target_box_xyxy=[0, 0, 80, 40])
    (row,) = _match(pair, matcher=load_matcher("nearest-neighbour:dense-sift?image_size=64"))
    assert row["status"] == "ok"
    assert row["score_inside"][0][2] > 0.9
    assert row["score_inside"][0][2] > row["score_outside"][0][2]
