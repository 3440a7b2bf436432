"""Which points are asked: exact places, and where there are none."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from make import encoded, noise_rgb, pair_row

from nemf.matcher import RGB, ImagePair, Match, Matcher
from nemf.matchers.identity import IdentityMatcher
from pipeline.io.manifest import MAX_KEYPOINTS
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import MatchOptions
from pipeline.matching.points import parse_points, place_points
from schemas.failures import FailureError
from schemas.pairs import PAIRS

HW = (40, 80)


def _never() -> np.ndarray:
    raise AssertionError("only salient points need the matcher")


def _place(text: str, box_xyxy: list[float | None] | None = None, hw: tuple[int, int] = HW) -> list[list[float]]:
    return place_points(parse_points(text), hw, box_xyxy, _never).tolist()


def _salient(n: int, cells: np.ndarray, box_xyxy: list[float | None] | None = None) -> np.ndarray:
    return place_points(parse_points(f"salient:{n}"), HW, box_xyxy, lambda: cells.astype(np.float32))


def test_a_grid_is_the_centres_of_the_cells_of_the_box():
    """The box is 20 wide and 10 high, its cells are 10 x 5."""
    assert _place("grid:2", [10, 20, 30, 30]) == [[15, 22.5], [25, 22.5], [15, 27.5], [25, 27.5]]


def test_without_a_box_a_grid_divides_the_image_from_edge_to_edge():
    """Pixels are areas: 80 x 40 of them, divided into cells of 40 x 20, whose centres are between pixels."""
    assert _place("grid:2") == [[19.5, 9.5], [59.5, 9.5], [19.5, 29.5], [59.5, 29.5]]
    assert _place("grid:1") == [[39.5, 19.5]]
    assert _place("grid:2", hw=(1, 1)) == [[-0.25, -0.25], [0.25, -0.25], [-0.25, 0.25], [0.25, 0.25]]


def test_the_part_of_a_box_outside_the_image_is_not_asked():
    assert _place("grid:1", [-100, 10, 20.5, 20]) == [[10, 15]]
    assert _place("grid:1", [59.5, -5, 500, 500]) == [[69.5, 19.5]]


def test_dense_points_are_pixels_of_the_image_inside_the_box():
    assert _place("dense:20") == [[x, y] for y in (10, 30) for x in (10, 30, 50, 70)]
    assert _place("dense:20", [10, 9, 49.5, 20]) == [[10, 10], [30, 10]]
    assert _place("dense:20", [11, 11, 12, 12]) == []
    assert _place("dense:1", hw=(2, 2)) == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert _place("dense:100") == [[50, y] for y in ()]


def test_too_many_dense_points_are_refused_and_as_many_as_may_be_are_not():
    assert len(_place("dense:1", hw=(100, 100))) == MAX_KEYPOINTS
    with pytest.raises(
        FailureError, match=r"dense:1 are 101 x 100 points of this query; at most 10000: take a greater"
    ):
        _place("dense:1", hw=(100, 101))


@pytest.mark.parametrize(
    "box_xyxy", [[10, 10, 10, 20], [30, 10, 20, 20], [100, 0, 200, 20], [0, 0, None, 5], [0, float("nan"), 5, 5]]
)
def test_a_box_without_extent_in_the_image_is_refused(box_xyxy: list[float | None]):
    for text in ("grid:2", "dense:2", "salient:2"):
        with pytest.raises(
            FailureError, match=r"the query's box .* has no extent in its image of 80 x 40 pixels"
        ) as why:
            _place(text, box_xyxy)
        assert why.value.failure[:2] == ("manifest", "bad_box")


def test_salient_points_are_the_peaks_best_first():
    """Cells of 10 x 10 pixels, centres at 4.5, 14.5, ...; places are 80 / 64 and 40 / 64 pixels apart."""
    cells = np.zeros((4, 8))
    cells[1, 2], cells[2, 6] = 0.5, 0.9
    first, second = _salient(2, cells)
    assert np.abs(first - [64.5, 24.5]).max() <= 1.25 / 2
    assert np.abs(second - [24.5, 14.5]).max() <= 1.25 / 2


def test_a_point_takes_the_places_round_it_from_worse_ones():
    """The second peak is 10 pixels from the first, nearer than half the step of a grid of 2 x 2, 20 pixels."""
    cells = np.zeros((4, 8))
    cells[1, 2], cells[1, 3], cells[3, 7] = 0.9, 0.5, 0.1
    first, second = _salient(2, cells)
    assert np.abs(first - [24.5, 14.5]).max() <= 1.25 / 2
    assert np.abs(second - [74.5, 34.5]).max() <= 1.25 / 2


def test_salient_points_are_in_the_box():
    cells = np.zeros((4, 8))
    cells[0, 0], cells[3, 7] = 1, 0.5
    points = _salient(4, cells, [40, 20, 80, 40])
    assert ((points >= [40, 20]) & (points <= [79.5, 39.5])).all()
    assert np.abs(points[0] - [74.5, 34.5]).max() <= 0.63


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 36, 100])
@pytest.mark.parametrize("cells", [np.zeros((1, 1)), np.random.default_rng(0).random((7, 5)), np.eye(32)])
def test_there_are_always_as_many_salient_points_as_asked_and_none_near_another(n: int, cells: np.ndarray):
    points = _salient(n, cells)
    assert points.shape == (n, 2)
    half_a_step = np.array([HW[1], HW[0]]) / (2 * np.ceil(np.sqrt(n)))
    apart = np.abs(points[:, None] - points[None]) / half_a_step
    apart[np.arange(n), np.arange(n)] = np.inf
    assert (apart.max(axis=2) > 0.999).all()


def test_the_most_salient_points_that_may_be_asked():
    assert len(_salient(MAX_KEYPOINTS, np.zeros((3, 3)))) == MAX_KEYPOINTS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "grid",
        "grid:",
        "grid:0",
        "grid:x",
        "grid:-1",
        "grid:1.5",
        "grid:٣",
        "keypoints:3",
        "salient:0",
        "dense:",
        "x:3",
    ],
)
def test_texts_that_ask_for_nothing(text: str):
    with pytest.raises(ValueError, match=r"--points must be keypoints, grid:N, salient:N or dense:STRIDE, .*; got '"):
        parse_points(text)


@pytest.mark.parametrize(("text", "n"), [("grid:101", "10,201"), ("salient:10001", "10,001")])
def test_more_points_than_a_pair_may_have(text: str, n: str):
    with pytest.raises(ValueError, match=f"--points {text} are {n} points a pair; at most 10,000"):
        parse_points(text)


def test_only_other_points_than_the_manifests_shape_a_run():
    assert parse_points("keypoints").shaping == {}
    assert parse_points("grid:6").shaping != parse_points("grid:7").shaping != parse_points("salient:7").shaping


class Bright(IdentityMatcher):
    """Finds bright pixels salient."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def salience(self, rgb: RGB) -> np.ndarray:
        self.seen.append(id(rgb))
        return rgb.mean(axis=2, dtype=np.float32)


def _image(hw: tuple[int, int], *bright_xy: tuple[int, int]) -> bytes:
    rgb = np.zeros((*hw, 3), np.uint8)
    for x, y in bright_xy:
        rgb[y, x] = 255
    return encoded(rgb)


SOURCE, TARGET = _image((16, 16), (12, 4)), _image((32, 32), (8, 24))


def _pair(pair_id: str = "1", **columns: Any) -> dict[str, Any]:
    images = {"source_image": SOURCE, "target_image": TARGET}
    return pair_row(pair_id, **{**images, "source_box_xyxy": [0, 0, 8, 4], **columns})


def _match(points: str, *rows: dict[str, Any], matcher: Matcher | None = None, **options: Any) -> list[dict[str, Any]]:
    both = ("source_to_target", "target_to_source")
    chosen = MatchOptions(points=parse_points(points), **{"directions": both, **options})
    table = pa.Table.from_pylist(list(rows), PAIRS)
    matcher = matcher or Bright()
    chunks = [match_chunk(matcher, chunk, chosen, fingerprint="f", attempt=1) for chunk in decode_rows(table, None)]
    return pa.concat_tables(chunks).to_pylist()


def test_each_direction_asks_the_points_of_its_own_query():
    forth, back = _match("grid:2", _pair())
    assert forth["query_xy_px"] == [[2, 1], [6, 1], [2, 3], [6, 3]]
    assert forth["reference_xy_px"] == [[4.5, 2.5], [12.5, 2.5], [4.5, 6.5], [12.5, 6.5]]  # twice as large
    assert back["query_xy_px"] == [[7.5, 7.5], [23.5, 7.5], [7.5, 23.5], [23.5, 23.5]]  # the target has no box
    assert len(back["point_confidence"]) == 4


def test_salient_points_are_the_matchers_own_and_an_image_is_looked_at_once():
    matcher = Bright()
    rows = _match("salient:1", _pair("1", source_box_xyxy=None), _pair("2", source_box_xyxy=None), matcher=matcher)
    near = [
        np.abs(np.array(row["query_xy_px"][0]) - true).max()
        for row, true in zip(rows, [[12, 4], [8, 24]] * 2, strict=True)
    ]
    assert max(near) <= 0.5
    assert len(matcher.seen) == len(set(matcher.seen)) == 2


def test_the_manifests_points_are_not_looked_at():
    (row, _) = _match("grid:1", _pair(source_xy_px=[[float("nan"), 0]], target_xy_px=None))
    assert (row["status"], row["query_xy_px"]) == ("ok", [[4, 2]])


def test_cycle_and_margin_are_of_the_points_asked():
    class Shifting(Bright):
        """Adds (3, 4) to every point."""

        def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
            matches = super().match_batch(pairs)
            for match in matches:
                object.__setattr__(match, "reference_xy_px", match.reference_xy_px + np.float32([3, 4]))
            return matches

    (row,) = _match(
        "grid:2",
        _pair(target_image=SOURCE),
        matcher=Shifting(),
        directions=("source_to_target",),
        outputs=("keypoints", "confidence", "cycle"),
    )
    assert row["point_cycle_error_px"] == [10.0] * 4


def test_a_pair_whose_points_cannot_be_is_a_row_with_the_reason():
    large = encoded(noise_rgb(1, (101, 101)))
    rows = _match(
        "dense:1",
        _pair("1"),
        _pair("2", source_image=large, source_box_xyxy=None),
        _pair("3", source_box_xyxy=[5, 5, 5, 9]),
    )
    why = [(row["status"], row["error_stage"], row["error_kind"]) for row in rows]
    ok = ("ok", None, None)
    assert why == [ok, ok, ("error", "manifest", "too_many_points"), ok, ("error", "manifest", "bad_box"), ok]
    assert rows[0]["query_xy_px"] == [[x, y] for y in range(5) for x in range(9)]


@pytest.mark.parametrize(
    ("cells", "kind", "message"),
    [
        (lambda: None, "bad_answer", "salience must be float of shape"),
        (lambda: np.zeros((2, 2, 1)), "bad_answer", "salience must be float of shape"),
        (lambda: np.full((2, 2), np.nan), "not_finite", "salience has NaN or infinity"),
        (lambda: 1 / 0, "ZeroDivisionError", "division by zero"),
    ],
)
def test_a_matcher_that_cannot_tell_is_an_error_of_its_pairs(cells: Callable[[], Any], kind: str, message: str):
    class Broken(IdentityMatcher):
        def salience(self, rgb: RGB) -> Any:
            return cells()

    (row, _) = _match("salient:3", _pair(), matcher=Broken())
    assert (row["status"], row["error_stage"], row["error_kind"]) == ("error", "match", kind)
    assert row["error_message"].startswith(message)


@pytest.mark.parametrize("points", ["grid:3", "salient:5", "dense:4"])
def test_batches_and_chunks_change_nothing(points: str):
    pairs = [_pair(str(number), **({} if number % 2 else {"source_image": TARGET})) for number in range(5)]
    together = _match(points, *pairs)
    alone = [row for pair in reversed(pairs) for row in reversed(_match(points, pair, batch_pairs=1))][::-1]
    for row in (*together, *alone):
        del row["milliseconds"]
    assert together == alone
