"""Flow that is a map of nodes, by the matcher that makes it."""

from dataclasses import replace

import numpy as np
import pytest
import skimage.data
import torch
from noise_pairs import POINTS, noise, pair, same

from nemf import ImagePair, load_matcher
from nemf.calibration import Calibration
from nemf.coordinates import pixel_grid
from nemf.flow_map import folded_share
from nemf.matchers.field_flow import flow_confidence, likeness_to_a_map
from nemf.matchers.nemf import NemfMatcher
from nemf.model.network import EncodedField, NeMF
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
    assert dense.flow_px.shape == without_points.flow_px.shape == (12, 20, 2)
    assert dense.flow_px.dtype == dense.flow_confidence.dtype == np.float32
    x, y = POINTS[:3].astype(int).T
    assert np.allclose(dense.flow_px[y, x] + POINTS[:3], dense.reference_xy_px, atol=1.5)  # between nodes, 2 px apart
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


def test_the_confidence_of_a_flow_is_high_where_it_ends_at_what_the_query_cells_match(model: NeMF):
    """16 query cells a side match the reference cells 3 further right: a flow of 3 cells is sure, another is not."""
    cells = np.arange(256).reshape(16, 16)
    refined = torch.zeros(1, 256, 256)
    refined[0, np.minimum(cells % 16 + 3, 15) + cells // 16 * 16, cells] = 2
    encoded = EncodedField(field=model.field, with_mean=refined[:, None])
    one = ImagePair(query_rgb=noise(64, 64), reference_rgb=noise(64, 64, seed=1), dense=True)
    right_xy_px = pixel_grid((8, 8)) / 7 * 63 + torch.tensor([12, 0])
    away_xy_px = right_xy_px.clone()
    away_xy_px[:4, :, 1] += 30
    line = Calibration(mass=(0.0, 1.0), probability=(0.1, 0.9))
    sure, half = (flow_confidence(encoded, one, xy_px, line) for xy_px in (right_xy_px, away_xy_px))
    assert (sure[1:-1, :5] > 0.85).all()
    assert (half[1:4, :5] < 0.12).all()
    assert torch.equal(half[4:], sure[4:])


def test_the_likeness_to_a_map():
    """Each of 16 x 16 query cells matches the reference cell 3 further right, then its mirror image, then none."""
    one = ImagePair(query_rgb=noise(64, 96), reference_rgb=noise(64, 96, seed=1), dense=True)
    row, column = np.divmod(np.arange(256), 16)
    likeness = {}
    for name, match in (("shifted", np.minimum(column + 3, 15)), ("mirrored", 15 - column)):
        refined = torch.zeros(256, 256)
        refined[16 * row + match, np.arange(256)] = 0.8
        likeness[name] = likeness_to_a_map(refined, one)
    assert 0.75 < likeness["shifted"] < 0.8
    assert likeness["mirrored"] < 0.6 * likeness["shifted"]
    assert likeness_to_a_map(torch.zeros(256, 256), one) == 0


def test_the_flow_of_a_mirrored_image_is_its_mirror_image():
    """The shipped network on a photograph and its mirror image: nearly every pixel has its mirrored place."""
    rgb = np.asarray(skimage.data.astronaut())[::2, ::2]
    match = load_matcher("nemf-small", device="cpu").match(rgb, np.ascontiguousarray(rgb[:, ::-1]), [], dense=True)
    expected_px = 255 - 2 * np.arange(256)
    wrong_px = np.hypot(match.flow_px[..., 0] - expected_px, match.flow_px[..., 1])
    assert np.median(wrong_px) < 3
    assert (wrong_px < 12).mean() > 0.9
