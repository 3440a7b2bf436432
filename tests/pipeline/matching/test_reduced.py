"""Photographs read at a reduced scale: what the matcher sees, and exact places in the whole images."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from make import encoded, noise_rgb, pair_row
from PIL import Image

from nemf.matcher import ImagePair, Match, Matcher, squashed_side_of
from nemf.matchers.identity import IdentityMatcher
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import OUTPUTS, MatchOptions
from pipeline.matching.points import AskedPoints
from pipeline.matching.reduced import Reductions, reduced_side, shaping
from schemas.pairs import PAIRS

SIDE = 16


class Brightest(Matcher):
    """Squashes images to SIDE x SIDE; every point's match is the centre of brightness. It keeps the pairs it saw."""

    name = fingerprint = "brightest"
    squashed_side = SIDE

    def __init__(self) -> None:
        self.seen: list[ImagePair] = []

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        self.seen += pairs
        return [self._match(pair) for pair in pairs]

    def _match(self, pair: ImagePair) -> Match:
        squashed = Image.fromarray(pair.reference_rgb).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        weight = np.asarray(squashed, np.float64).sum(axis=2) ** 2
        y, x = np.mgrid[:SIDE, :SIDE]
        centre = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        height, width = pair.reference_hw
        place = (centre + 0.5) * np.array([width, height]) / SIDE - 0.5
        n_points = 0 if pair.query_xy_px is None else len(pair.query_xy_px)
        return Match(
            reference_xy_px=np.tile(place.astype(np.float32), (n_points, 1)),
            point_confidence=np.ones(n_points, np.float32),
        )


def _blob(hw: tuple[int, int], x: float, y: float) -> np.ndarray:
    rows, columns = np.mgrid[: hw[0], : hw[1]]
    blob = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * (hw[1] / 12) ** 2))
    return np.repeat(blob[..., None], 3, axis=2).astype(np.uint8)


def _match(row: dict[str, object], matcher: Matcher, side: int | None, **options) -> dict[str, object]:
    (chunk,) = decode_rows(pa.Table.from_pylist([pair_row("1", **row)], PAIRS), None, reduced_side=side)
    (found,) = match_chunk(matcher, chunk, MatchOptions(**options), fingerprint="f", attempt=1).to_pylist()
    return found


@pytest.mark.parametrize("hw", [(192, 256), (187, 253), (131, 390)])
def test_answers_are_places_of_the_whole_images(hw: tuple[int, int]) -> None:
    row = {
        "source_image": encoded(noise_rgb(1, (70, 128))),
        "target_image": encoded(_blob(hw, 0.7 * hw[1], 0.4 * hw[0]), "JPEG", quality=95),
        "source_xy_px": [[0.0, 0.0], [127.0, 69.0]],
        "target_xy_px": [[1.0, 2.0]] * 2,
    }
    whole, reduced = Brightest(), Brightest()

    expected, found = _match(row, whole, None), _match(row, reduced, SIDE)

    assert (found["query_hw"], found["reference_hw"]) == ([70, 128], list(hw))
    assert found["query_xy_px"] == row["source_xy_px"]
    squashed_px = np.array([hw[1], hw[0]]) / SIDE
    apart = np.abs(np.array(found["reference_xy_px"]) - np.array(expected["reference_xy_px"])) / squashed_px
    assert apart.max() < 0.05
    (pair,) = reduced.seen
    assert pair.reference_hw == (-(-hw[0] // 4), -(-hw[1] // 4))
    assert pair.query_hw == (35, 64)
    np.testing.assert_allclose(pair.query_xy_px, [[-0.25, -0.25], [63.25, 34.25]])


def test_a_query_that_is_read_whole_keeps_its_points_to_the_bit() -> None:
    pair = ImagePair(
        query_rgb=noise_rgb(1, (9, 9)),
        reference_rgb=noise_rgb(2, (16, 8)),
        query_xy_px=np.array([[1 / 3, 2 / 3]], np.float32),
    )
    sizes = Reductions(query_hw=(9, 9), reference_hw=(63, 32), read_query_hw=(9, 9), read_reference_hw=(16, 8))

    assert sizes.is_reduced
    np.testing.assert_array_equal(sizes.pair_as_read(pair).query_xy_px, pair.query_xy_px)
    columns = sizes.columns_in_images({"reference_xy_px": [[0.0, 0.0]], "answer_grid_hw": [4, 4]})
    assert columns == {"reference_xy_px": [[1.5, 0.5 * 63 / 16 - 0.5]], "answer_grid_hw": [4, 4]}


def test_points_that_are_chosen_are_those_of_the_whole_image() -> None:
    row = {"source_image": encoded(noise_rgb(1, (70, 128))), "target_image": encoded(noise_rgb(2, (8, 8)))}

    found = _match(row, IdentityMatcher(), SIDE, points=AskedPoints(kind="grid", number=1))

    assert found["query_xy_px"] == [[63.5, 34.5]]
    np.testing.assert_allclose(found["reference_xy_px"], [[3.5, 3.5]], atol=1e-5)


@pytest.mark.parametrize(
    ("side", "outputs", "crop", "expected"),
    [
        (256, ("keypoints", "confidence"), "none", 256),
        (None, ("keypoints", "confidence"), "none", None),
        (256, ("keypoints",), "boxes", None),
        *((256, ("keypoints", name), "none", None) for name in OUTPUTS if name not in ("keypoints", "confidence")),
    ],
)
def test_images_are_read_whole_where_matcher_or_outputs_need_it(
    side: int | None, outputs: tuple[str, ...], crop: str, expected: int | None
) -> None:
    assert reduced_side(side, outputs, crop) == expected
    assert bool(shaping(expected)) == (expected is not None)


def test_a_matcher_says_that_it_squashes_and_to_what() -> None:
    class Odd(Brightest):
        squashed_side = 0

    assert squashed_side_of(Brightest()) == SIDE
    assert squashed_side_of(IdentityMatcher()) is None
    assert squashed_side_of(object()) is None
    with pytest.raises(ValueError, match="must be a number of pixels, 1 or more, or None; got 0"):
        squashed_side_of(Odd())
