"""NemfMatcher.score_map: the field of one query point over the reference image."""

import numpy as np
import pytest
import torch
from official_nemf import SMALL, official_shapes, official_state_dict

from nemf import ImagePair
from nemf.coordinates import px_to_norm
from nemf.matchers.nemf import NemfMatcher
from nemf.model.scorer import QueryScorer
from nemf.official.names import from_official_state_dict
from nemf.search.config import SearchConfig

QUERY_HW, REFERENCE_HW = (24, 40), (31, 25)
QUERY, REFERENCE = (
    np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8) for seed, hw in enumerate((QUERY_HW, REFERENCE_HW))
)


@pytest.fixture(scope="module")
def matcher() -> NemfMatcher:
    model = from_official_state_dict(official_state_dict(official_shapes(**SMALL), seed=3), 2)
    return NemfMatcher("nemf", model, torch.device("cpu"), SearchConfig(patchmatch_steps=3, refine_steps=0))


def _score(matcher: NemfMatcher, query_xy_px: list[float], reference_xy_px: np.ndarray) -> np.ndarray:
    """The scores of positions (K, 2) of the reference image, by the network itself."""
    encoded = matcher.encode([ImagePair(query_rgb=QUERY, reference_rgb=REFERENCE)])
    positions = torch.tensor(reference_xy_px, dtype=torch.float32)
    point = torch.tensor(query_xy_px).expand(len(positions), 2)
    logits = matcher.model.score(
        encoded, px_to_norm(positions, REFERENCE_HW)[None], px_to_norm(point, QUERY_HW)[None].contiguous()
    )
    return logits[0].sigmoid().numpy()


def test_it_is_the_score_of_evenly_spaced_places(matcher: NemfMatcher):
    """11 x 5 positions of an image of 31 x 25 pixels are 3 pixels apart in y, and 6 in x."""
    scores = matcher.score_map(QUERY, REFERENCE, (12.5, 7), (11, 5))
    assert scores.shape == (11, 5)
    assert scores.dtype == np.float32
    rows, columns = [0, 4, 10, 10], [0, 1, 2, 4]
    positions = np.array([[6 * column, 3 * row] for row, column in zip(rows, columns, strict=True)])
    assert np.abs(scores[rows, columns] - _score(matcher, [12.5, 7.0], positions)).max() < 1e-6
    assert np.ptp(scores) > 1e-3
    assert not np.array_equal(scores, matcher.score_map(QUERY, REFERENCE, (30, 7), (11, 5)))


def test_it_is_highest_where_a_planted_score_is(matcher: NemfMatcher, monkeypatch: pytest.MonkeyPatch):
    def planted(_: QueryScorer, reference_xy_norm: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        offset = reference_xy_norm[places] - px_to_norm(torch.tensor([18.0, 5.0]), REFERENCE_HW)
        return 2 - offset.square().sum(dim=-1)

    monkeypatch.setattr(QueryScorer, "at_places", planted)
    scores = matcher.score_map(QUERY, REFERENCE, [0, 0], REFERENCE_HW)
    assert np.unravel_index(scores.argmax(), scores.shape) == (5, 18)
    assert scores[5, 18] == pytest.approx(1 / (1 + np.exp(-2)))


def test_one_place_is_the_middle(matcher: NemfMatcher):
    (middle,) = _score(matcher, [3.0, 4.0], np.array([[12, 15]]))
    assert matcher.score_map(QUERY, REFERENCE, [3, 4], (1, 1)).item() == pytest.approx(middle, abs=1e-6)


def test_a_point_outside_is_the_nearest_one_inside(matcher: NemfMatcher):
    outside, inside = (matcher.score_map(QUERY, REFERENCE, xy_px, (4, 3)) for xy_px in ((60, -2), (39, 0)))
    assert np.array_equal(outside, inside)


def test_what_it_refuses(matcher: NemfMatcher):
    with pytest.raises(ValueError, match="needs at least 1 x 1 places; got 0 x 5"):
        matcher.score_map(QUERY, REFERENCE, [1, 2], (0, 5))
    with pytest.raises(ValueError, match="cannot reshape array of size 3"):
        matcher.score_map(QUERY, REFERENCE, [1, 2, 3], (4, 5))
    with pytest.raises(ValueError, match="points must be finite"):
        matcher.score_map(QUERY, REFERENCE, [1, float("nan")], (4, 5))


def test_a_pair_that_asks_has_the_logits_at_the_centres_of_64_x_64_cells(matcher: NemfMatcher):
    """Cells of 31 x 25 pixels are smaller than a pixel; centres outside the first and last pixel's are moved there."""
    points = np.array([[12.5, 7], [30, 7]], np.float32)
    pair = ImagePair(query_rgb=QUERY, reference_rgb=REFERENCE, query_xy_px=points, score_maps=True)
    plain = ImagePair(query_rgb=QUERY, reference_rgb=REFERENCE, query_xy_px=points)
    match, without = matcher.match_batch([pair, plain])
    assert without.score_maps is None
    assert np.array_equal(match.reference_xy_px, without.reference_xy_px)
    assert match.score_maps is not None
    assert (match.score_maps.shape, match.score_maps.dtype) == ((2, 64, 64), np.float32)
    cells = [(0, 0), (31, 10), (63, 63)]
    positions = np.array([[0, 0], [10.5 * 25 / 64 - 0.5, 31.5 * 31 / 64 - 0.5], [24, 30]])
    for point, scores in zip(points.tolist(), match.score_maps, strict=True):
        at_cells = np.array([scores[cell] for cell in cells])
        assert 1 / (1 + np.exp(-at_cells)) == pytest.approx(_score(matcher, point, positions), abs=1e-6)
