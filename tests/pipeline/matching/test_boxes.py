"""Matching inside the boxes of the manifest: what the matcher sees, and exact places in the whole images."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from make import encoded, noise_rgb, pair_row

from nemf.matcher import ImagePair, Match, Matcher
from nemf.matchers.identity import IdentityMatcher
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import MatchOptions
from schemas.pairs import PAIRS

SOURCE, TARGET = noise_rgb(1, (47, 61)), noise_rgb(2, (81, 53))
SOURCE_BOX, TARGET_BOX = [10.0, 12.0, 30.0, 22.0], [20.5, 30.25, 40.5, 70.25]
# 15 % of the longer side, 20 and 40 px, on each side: 3 and 6 px
SOURCE_CROP, TARGET_CROP = SOURCE[9:26, 7:34], TARGET[24:78, 14:48]


class Recorder(IdentityMatcher):
    """The identity, with the pairs that it saw; it says that it answers on a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[ImagePair] = []

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        self.seen += pairs
        matches = super().match_batch(pairs)
        return [
            Match(
                reference_xy_px=match.reference_xy_px,
                point_confidence=match.point_confidence,
                answer_grid_hw=(9, 9),
                score_maps=np.arange(20 * 20, dtype=np.float32).reshape(1, 20, 20) if pair.score_maps else None,
            )
            for pair, match in zip(pairs, matches, strict=True)
        ]


def _match(row: dict[str, object], matcher: Matcher | None = None, **options) -> list[dict[str, object]]:
    columns = {
        "source_image": encoded(SOURCE),
        "target_image": encoded(TARGET),
        "source_xy_px": [[15.5, 14.0]],
        "target_xy_px": [[30.0, 40.0]],
        "source_box_xyxy": SOURCE_BOX,
        "target_box_xyxy": TARGET_BOX,
        "keypoint_id": ["nose"],
    }
    (chunk,) = decode_rows(pa.Table.from_pylist([pair_row("1", **{**columns, **row})], PAIRS), None)
    settings = MatchOptions(crop="boxes", **options)
    return match_chunk(matcher or IdentityMatcher(), chunk, settings, fingerprint="f", attempt=1).to_pylist()


def test_the_matcher_sees_the_boxes_and_their_margin() -> None:
    matcher = Recorder()
    (row,) = _match({}, matcher)
    (pair,) = matcher.seen
    np.testing.assert_array_equal(pair.query_rgb, SOURCE_CROP)
    np.testing.assert_array_equal(pair.reference_rgb, TARGET_CROP)
    np.testing.assert_array_equal(pair.query_xy_px, [[8.5, 5.0]])
    assert row["matcher"] == "identity in the manifest's boxes"


def test_answers_are_exact_places_of_the_whole_images_in_both_directions() -> None:
    forth, back = _match({}, Recorder(), directions=("source_to_target", "target_to_source"))

    assert (forth["query_hw"], forth["reference_hw"]) == ([47, 61], [81, 53])
    assert forth["query_xy_px"] == [[15.5, 14.0]]
    # the crop of 27 x 17 pixels at (7, 9) onto that of 34 x 54 at (14, 24): areas onto areas
    x, y = 14 + (15.5 - 7 + 0.5) * 34 / 27 - 0.5, 24 + (14 - 9 + 0.5) * 54 / 17 - 0.5
    assert forth["reference_xy_px"] == [pytest.approx([x, y], abs=1e-5)]
    assert forth["answer_grid_hw"] is None
    x, y = 7 + (30 - 14 + 0.5) * 27 / 34 - 0.5, 9 + (40 - 24 + 0.5) * 17 / 54 - 0.5
    assert back["reference_xy_px"] == [pytest.approx([x, y], abs=1e-5)]


def test_a_box_of_the_whole_image_changes_nothing_but_the_name() -> None:
    (row,) = _match({"source_box_xyxy": [0, 0, 60, 46], "target_box_xyxy": [-5, -5, 99, 99]}, matcher := Recorder())
    assert row["answer_grid_hw"] == [9, 9]
    np.testing.assert_array_equal(matcher.seen[0].query_rgb, SOURCE)
    np.testing.assert_array_equal(matcher.seen[0].reference_rgb, TARGET)
    assert row["reference_xy_px"] == [pytest.approx([16 * 53 / 61 - 0.5, 14.5 * 81 / 47 - 0.5], abs=1e-5)]


def test_a_query_point_outside_its_box_is_in_the_crop() -> None:
    points = {"source_xy_px": [[15.5, 14.0], [50.0, 40.5], [900.0, 14.0]], "target_xy_px": [], "keypoint_id": None}
    (row,) = _match(points, matcher := Recorder())
    np.testing.assert_array_equal(matcher.seen[0].query_rgb, SOURCE[9:42, 7:61])
    assert row["query_xy_px"] == points["source_xy_px"]


def test_the_distance_there_and_back_is_that_of_the_whole_images() -> None:
    (row,) = _match({}, outputs=("keypoints", "cycle"))
    assert row["point_cycle_error_px"] == [pytest.approx(0, abs=1e-5)]


def test_scores_are_compared_with_the_truth_in_the_crop() -> None:
    """The map's greatest score, 399, is in its last cell: in the crop's corner, at (47, 77) of the target."""
    (row,) = _match({"target_xy_px": [[46.65, 76.15]]}, Recorder(), outputs=("keypoints", "scores"))
    assert row["score_inside"][0][0] == 399
    (row,) = _match({"target_xy_px": [[14.0, 24.0]]}, Recorder(), outputs=("keypoints", "scores"))
    assert row["score_inside"][0][0] < 30
    assert row["score_outside"][0][0] == 399


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"target_box_xyxy": None}, "target_box_xyxy is null, and --crop boxes needs a box of both images"),
        ({"source_box_xyxy": [5, 5, 5, 20]}, "source_box_xyxy [5.0, 5.0, 5.0, 20.0] is no box with an extent in an"),
        ({"source_box_xyxy": [70, 5, 90, 20]}, "in an image of 61 x 47 pixels"),
        ({"source_box_xyxy": [float("nan"), 5, 90, 20]}, "source_box_xyxy [nan, "),
    ],
)
def test_a_pair_without_boxes_is_an_error_with_its_reason(row: dict[str, object], message: str) -> None:
    (failed,) = _match(row)
    kind = "bad_box" if "is no box" in str(failed["error_message"]) else "no_box"
    assert (failed["status"], failed["error_stage"], failed["error_kind"]) == ("error", "manifest", kind)
    assert message in str(failed["error_message"])
