"""Flow that is a map of nodes, by the matcher that makes it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from noise_pairs import POINTS, noise, pair, same

from nemf.flow_map import folded_share
from nemf.matchers.nemf import NemfMatcher
from nemf.model.network import NeMF
from nemf.search.config import SearchConfig


def test_a_flow_of_nodes_is_a_map_through_the_points_and_independent_of_its_batch(model: NeMF, matcher: NemfMatcher):
    search = replace(matcher.config, flow_nodes=10)
    mapped = NemfMatcher("nemf", model, torch.device("cpu"), search)
    pairs = [
        pair(query_xy_px=POINTS[:3], dense=True),
        pair("b", seed=5, query_xy_px=POINTS[:2]),
        pair("c", seed=7, dense=True),
        pair(query_xy_px=POINTS[:3]),
    ]
    together = list(mapped.match_batch(pairs))
    assert all(same(match, next(mapped.match_batch([one]))) for match, one in zip(together, pairs, strict=True))
    dense, _, without_points, sparse = together
    assert dense.flow_px.shape == without_points.flow_px.shape == (24, 40, 2)
    assert dense.flow_px.dtype == dense.flow_confidence.dtype == np.float32
    x, y = POINTS[:3].astype(int).T
    assert np.allclose(dense.flow_px[y, x] + POINTS[:3], dense.reference_xy_px, atol=1.5)  # between nodes, 4 px apart
    assert np.array_equal(dense.reference_xy_px, sparse.reference_xy_px)
    assert np.array_equal(sparse.reference_xy_px, next(matcher.match_batch([pairs[3]])).reference_xy_px)
    assert 0 <= dense.flow_confidence.min() < dense.flow_confidence.max() <= 1
    assert folded_share(dense.flow_px) < folded_share(next(matcher.match_batch([pairs[0]])).flow_px)
    assert mapped.fingerprint != matcher.fingerprint


@pytest.mark.parametrize("hw", [(1, 1), (1, 30), (3, 100)])
def test_a_flow_of_nodes_of_narrow_images(model: NeMF, hw: tuple[int, int]):
    matcher = NemfMatcher("n", model, torch.device("cpu"), SearchConfig(patchmatch_steps=2, flow_nodes=8))
    match = matcher.match(noise(*hw), noise(50, 30, seed=1), [[0, 0]], dense=True)
    assert match.flow_px.shape == (*hw, 2)
    assert np.allclose(match.flow_px[0, 0], match.reference_xy_px[0], atol=0.5)
