from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from make import encoded, noise_rgb, pair_row
from slow_matcher import SlowMatcher

from nemf import load_matcher
from nemf.matcher import ImagePair, Match, Matcher
from nemf.matchers.identity import IdentityMatcher
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import MatchOptions
from pipeline.runs.flow_codec import decode_confidence, decode_flow
from schemas.failures import Failure
from schemas.matches import MATCHES
from schemas.pairs import PAIRS

SMALL, WIDE = encoded(noise_rgb(1, (10, 20))), encoded(noise_rgb(2, (10, 41)))


def _match(options: MatchOptions, *rows: dict[str, object], matcher: Matcher | None = None) -> pa.Table:
    (chunk,) = decode_rows(pa.Table.from_pylist(list(rows), PAIRS), None)
    table = match_chunk(matcher or IdentityMatcher(), chunk, options, fingerprint="f", attempt=3)
    assert table.schema.equals(MATCHES)
    return table


def _pair(pair_id: str = "1", **columns: object) -> dict[str, object]:
    row = {"source_image": SMALL, "target_image": WIDE, "source_xy_px": [[9.5, 4.0]], "target_xy_px": [[20.0, 4.0]]}
    return pair_row(pair_id, **{**row, **columns})


def test_source_to_target_asks_for_the_sources_points() -> None:
    (row,) = _match(MatchOptions(), _pair()).to_pylist()

    assert (row["status"], row["direction"], row["attempt"]) == ("ok", "source_to_target", 3)
    assert (row["query_hw"], row["reference_hw"]) == ([10, 20], [10, 41])
    assert row["query_xy_px"] == [[9.5, 4.0]]
    assert row["reference_xy_px"] == [[20.0, 4.0]]
    assert row["point_confidence"] == [1.0]
    assert row["flow"] is None


def test_both_directions_are_two_rows() -> None:
    rows = _match(MatchOptions(directions=("source_to_target", "target_to_source")), _pair()).to_pylist()

    assert [row["direction"] for row in rows] == ["source_to_target", "target_to_source"]
    assert rows[1]["query_hw"] == [10, 41]
    assert rows[1]["query_xy_px"] == [[20.0, 4.0]]
    assert rows[1]["reference_xy_px"] == [[9.5, 4.0]]


def test_flow_and_its_confidence_cover_the_query() -> None:
    options = MatchOptions(outputs=("keypoints", "flow", "confidence"))

    (row,) = _match(options, _pair()).to_pylist()

    flow_px = decode_flow(row)
    assert flow_px.shape == (10, 20, 2)
    assert flow_px[0, 0] == pytest.approx([0.525, 0.0], abs=1 / 128)  # 0.5 * 41/20 - 0.5
    assert decode_confidence(row).tolist() == np.ones((10, 20)).tolist()


def test_cycle_is_where_a_point_lands_matched_back() -> None:
    class Drifting(IdentityMatcher):
        """A matcher that adds (3, 4) to every predicted point."""

        def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
            return [
                Match(reference_xy_px=pair.query_xy_px + np.float32([3, 4]), point_confidence=np.ones(1, np.float32))
                for pair in pairs
                if pair.query_xy_px is not None
            ]

    options = MatchOptions(outputs=("keypoints", "confidence", "cycle"))

    (row,) = _match(options, _pair(), matcher=Drifting()).to_pylist()

    assert row["point_cycle_error_px"] == [10.0]


def test_a_pair_the_matcher_fails_on_does_not_harm_its_batch() -> None:
    rows = _match(
        MatchOptions(batch_pairs=3), _pair("1"), _pair("bad"), _pair("3"), _pair("4"), matcher=SlowMatcher()
    ).to_pylist()

    assert [row["status"] for row in rows] == ["ok", "error", "ok", "ok"]
    assert rows[1]["error_stage"] == "match"
    assert rows[1]["error_kind"] == "ArithmeticError"
    assert rows[1]["error_message"] == "this pair cannot be matched"


def test_a_batch_that_memory_does_not_hold_is_halved_and_what_was_answered_stays() -> None:
    batches = []

    class Small(IdentityMatcher):
        """A matcher that runs out of memory after four pairs of a batch."""

        def match_batch(self, pairs: Sequence[ImagePair]) -> Iterator[Match]:
            batches.append([pair.pair_id for pair in pairs])
            for number, match in enumerate(super().match_batch(pairs)):
                if number == 4:
                    raise MemoryError("out of memory")
                yield match

    rows = _match(MatchOptions(), *(_pair(name) for name in "abcdefghijklm"), matcher=Small()).to_pylist()

    assert ["".join(batch) for batch in batches] == ["abcdefghijklm", "efghi", "i", "jklm"]
    assert [(row["pair_id"], row["status"]) for row in rows] == [(name, "ok") for name in "abcdefghijklm"]
    assert all(row["milliseconds"]["match"] > 0 for row in rows)


def test_an_answer_that_is_no_number_is_an_error() -> None:
    class Nan(IdentityMatcher):
        """A matcher that returns NaN."""

        def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
            return [
                Match(reference_xy_px=np.full((1, 2), np.nan, np.float32), point_confidence=np.ones(1, np.float32))
                for _ in pairs
            ]

    (row,) = _match(MatchOptions(), _pair(), matcher=Nan()).to_pylist()

    assert (row["status"], row["error_kind"], row["reference_xy_px"]) == ("error", "not_finite", None)


def test_an_answer_that_cannot_be_read_is_an_error_of_its_pair_alone() -> None:
    class Trained(IdentityMatcher):
        """Forgets, for one pair, that its answer is part of a training."""

        def match_batch(self, pairs: Sequence[ImagePair]) -> Iterator[Match]:
            for pair, match in zip(pairs, super().match_batch(pairs), strict=True):
                learning: Any = SimpleNamespace(reference_xy_px=torch.ones(1, 2, requires_grad=True))
                yield learning if pair.pair_id == "c" else match

    rows = _match(MatchOptions(outputs=("keypoints", "cycle")), *map(_pair, "abcd"), matcher=Trained()).to_pylist()

    assert [row["status"] for row in rows] == ["ok", "ok", "error", "ok"]
    assert (rows[2]["error_stage"], rows[2]["error_kind"]) == ("match", "RuntimeError")
    assert "requires grad" in rows[2]["error_message"]


@pytest.mark.parametrize("points", [None, []])
def test_no_keypoints_is_an_answer_without_points(points: list[list[float]] | None) -> None:
    (row,) = _match(MatchOptions(), _pair(source_xy_px=points)).to_pylist()

    assert (row["status"], row["reference_xy_px"], row["point_confidence"]) == ("ok", [], [])


def test_keypoints_outside_the_image_are_answered() -> None:
    (row,) = _match(MatchOptions(), _pair(source_xy_px=[[-50.0, 400.0]])).to_pylist()

    assert row["status"] == "ok"


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"source_xy_px": [[1.0, float("nan")]]}, "source_xy_px: points must be finite; point 0 is (1.0, nan)"),
        ({"source_xy_px": [[None, 1.0]]}, "source_xy_px: points must be finite; point 0 is (nan, 1.0)"),
        ({"source_xy_px": [[1.0, 1.0], None]}, "source_xy_px: "),
        ({"target_xy_px": [[1.0, float("inf")]]}, "target_xy_px: points must be finite; point 0 is (1.0, inf)"),
        ({"target_xy_px": [[1.0, 1.0]] * 3}, "source_xy_px has 1 points and target_xy_px 3: they must correspond"),
    ],
)
def test_keypoints_that_cannot_be_are_an_error_in_both_directions(columns: dict[str, object], why: str) -> None:
    options = MatchOptions(directions=("source_to_target", "target_to_source"))

    rows = _match(options, _pair("bad", **columns), _pair("good")).to_pylist()

    assert [row["status"] for row in rows] == ["error", "error", "ok", "ok"]
    for row in rows[:2]:
        assert (row["error_stage"], row["error_kind"]) == ("manifest", "bad_keypoints")
        assert row["error_message"].startswith(why)


def test_points_that_nobody_asks_for_are_not_looked_at() -> None:
    (row,) = _match(MatchOptions(outputs=("flow",)), _pair(source_xy_px=[[1.0, float("nan")]])).to_pylist()

    assert row["status"] == "ok"


@pytest.mark.parametrize("answers", [[], [None], "nonsense"])
def test_a_matcher_that_answers_nonsense_is_an_error_of_each_pair(answers: Any) -> None:
    class Nonsense(IdentityMatcher):
        """A matcher that returns something else than one Match per pair."""

        def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
            return answers

    rows = _match(MatchOptions(), _pair("1"), _pair("2"), matcher=Nonsense()).to_pylist()

    assert [(row["status"], row["error_stage"], row["error_kind"]) for row in rows] == [
        ("error", "match", "bad_answer")
    ] * 2


def test_a_refused_pair_is_an_error_without_its_images_being_touched() -> None:
    table = pa.Table.from_pylist([_pair("1"), _pair("2", source_image=b"must not be opened")], PAIRS)

    (chunk,) = decode_rows(table, None, known_failures={"2": Failure("worker", "died", "it kills")})
    rows = match_chunk(IdentityMatcher(), chunk, MatchOptions(), fingerprint="f", attempt=1).to_pylist()

    assert [row["status"] for row in rows] == ["ok", "error"]
    assert (rows[1]["error_stage"], rows[1]["error_kind"], rows[1]["error_message"]) == ("worker", "died", "it kills")
    assert len(chunk.images) == 2


def test_flow_is_asked_for_in_batches_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Counting(IdentityMatcher):
        """A matcher that records the number of pairs in each call."""

        def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
            sizes.append(len(pairs))
            return super().match_batch(pairs)

    monkeypatch.setattr("pipeline.matching.match.DENSE_PIXELS_AT_ONCE", 450)  # of 200 a pair
    _match(MatchOptions(outputs=("flow",)), *(_pair(str(n)) for n in range(5)), matcher=Counting())
    _match(MatchOptions(), *(_pair(str(n)) for n in range(5)), matcher=Counting())

    assert sizes == [2, 2, 1, 5]


def test_the_batch_size_changes_nothing() -> None:
    """With a matcher that could depend on it: it encodes an image once a batch, and scores points in tiles."""
    matcher = load_matcher("nearest-neighbour:dense-sift?image_size=64")
    sides = {name: encoded(noise_rgb(seed, (40, 50))) for seed, name in enumerate(("source_image", "target_image"))}
    pairs = [
        _pair(str(n), **sides, source_xy_px=[[float(n + k), 2.0] for k in range(n)], target_xy_px=None)
        for n in range(7)
    ]
    tables = [
        _match(MatchOptions(batch_pairs=size), *pairs, matcher=matcher).drop_columns(["milliseconds"])
        for size in (1, 3, 16)
    ]

    assert set(tables[0]["status"].to_pylist()) == {"ok"}
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
