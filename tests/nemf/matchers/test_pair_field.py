"""Answers read from maps of the field, by the matcher that uses them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from noise_pairs import POINTS, noise, pair, same

from nemf.coordinates import px_to_norm
from nemf.matchers import pair_field
from nemf.matchers.nemf import NemfMatcher
from nemf.model.network import NeMF
from nemf.model.quadrilinear import sample_quadrilinear
from nemf.model.scorer import QueryScorer


@pytest.mark.parametrize("nodes", [0, 6])
@pytest.mark.parametrize("point_search", ["map", "mirrored-map"])
def test_points_found_on_a_map(model: NeMF, matcher: NemfMatcher, point_search: str, nodes: int):
    """They are where the field is high, the same in any batch, with and without flow."""
    config = replace(matcher.config, point_search=point_search, flow_nodes=nodes)
    changed = NemfMatcher("nemf", model, torch.device("cpu"), config)
    points = np.concatenate([POINTS] * 4)  # more than are computed at once
    asked = [pair(query_xy_px=points), pair("b", 5, query_xy_px=POINTS[:2], dense=True), pair("c", dense=True)]
    together = list(changed.match_batch(asked))
    for one, match in zip(asked, together, strict=True):
        assert same(match, next(changed.match_batch([one])))
    assert [match.flow_px is None for match in together] == [True, False, False]
    assert np.array_equal(together[0].reference_xy_px[:5], together[0].reference_xy_px[15:])
    assert changed.fingerprint != matcher.fingerprint


def test_points_of_a_map_are_where_the_field_is_high(
    model: NeMF, matcher: NemfMatcher, monkeypatch: pytest.MonkeyPatch
):
    """Of all places, since with random weights the field has nothing to do with the correlation."""
    monkeypatch.setattr(pair_field, "PLACES", math.prod(pair_field.MASS_MAP_HW))
    by_map = NemfMatcher("nemf", model, torch.device("cpu"), replace(matcher.config, point_search="map"))
    images = noise(24, 40), noise(50, 30, seed=1)
    answers_xy_px = by_map.match(*images, POINTS).reference_xy_px
    maps = [by_map.score_map(*images, xy_px, (16, 16)) for xy_px in POINTS]
    scores = [by_map.scores(*images, xy, found[None]).item() for xy, found in zip(POINTS, answers_xy_px, strict=True)]
    assert np.mean(scores) > np.mean([scores.mean() for scores in maps])


def test_only_places_where_the_correlation_is_greatest_are_scored(
    model: NeMF, matcher: NemfMatcher, monkeypatch: pytest.MonkeyPatch
):
    by_map = NemfMatcher("nemf", model, torch.device("cpu"), replace(matcher.config, point_search="map"))
    asked = pair(query_xy_px=POINTS)
    (side,) = {math.isqrt(cells) for cells in by_map.encode([asked]).refined_mean.shape[1:]}
    volume = by_map.encode([asked]).refined_mean[:, None].unflatten(3, (side, side)).unflatten(2, (side, side))
    calls = []
    at_places = QueryScorer.at_places

    def recorded(scorer: QueryScorer, reference_xy_norm: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        calls.append((reference_xy_norm, places))
        return at_places(scorer, reference_xy_norm, places)

    monkeypatch.setattr(QueryScorer, "at_places", recorded)
    next(by_map.match_batch([asked]))
    ((reference_xy_norm, places),) = calls
    assert places.shape == (len(POINTS), pair_field.PLACES)
    for point_px, scored in zip(POINTS, places, strict=True):
        query = px_to_norm(torch.from_numpy(point_px), asked.query_hw).expand_as(reference_xy_norm)
        correlation = sample_quadrilinear(volume, reference_xy_norm[None], query[None])[0, :, 0]
        rest = torch.ones(len(correlation), dtype=torch.bool).index_fill(0, scored, False)
        assert correlation[scored].min() >= correlation[rest].max() - 1e-6


def test_a_mirrored_map_is_that_of_the_mirrored_pair_in_the_mirror(model: NeMF, matcher: NemfMatcher):
    config = replace(matcher.config, point_search="mirrored-map")
    both = NemfMatcher("nemf", model, torch.device("cpu"), config)
    query_rgb, reference_rgb = noise(24, 40), noise(50, 30, seed=1)
    mirror = np.array([-1, 1], np.float32)
    plain = both.match(query_rgb, reference_rgb, POINTS)
    mirrored = both.match(query_rgb[:, ::-1].copy(), reference_rgb[:, ::-1].copy(), [39, 0] + mirror * POINTS)
    assert np.allclose(plain.reference_xy_px, [29, 0] + mirror * mirrored.reference_xy_px, atol=1e-3)
    assert np.allclose(plain.point_confidence, mirrored.point_confidence, atol=1e-4)


@pytest.mark.parametrize("point_search", ["map", "mirrored-map"])
def test_maps_of_images_of_one_pixel(model: NeMF, matcher: NemfMatcher, point_search: str):
    tiny = NemfMatcher("nemf", model, torch.device("cpu"), replace(matcher.config, point_search=point_search))
    match = tiny.match(noise(1, 1), noise(1, 1, seed=1), [[0, 0]])
    assert match.reference_xy_px.tolist() == [[0, 0]]
