"""How distinctive places are: planted descriptors, and every matcher that has some."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nemf import load_matcher
from nemf.matcher import Matcher, distinctness_of
from nemf.matchers.distinctness import distinctness


def test_a_planted_twin_is_no_more_distinctive_than_its_likeness():
    """20 cells of descriptors at right angles, but for three: a twin at some distance, at 60 degrees, and beside."""
    cells = torch.eye(20)
    cells[10] = cells[0]
    cells[15] = 0.5 * cells[5] + 0.75**0.5 * cells[15]
    cells[18] = cells[17]
    values = distinctness(cells.T[:, None])
    expected = np.ones(20)
    expected[[0, 10]] = 0
    expected[[5, 15]] = 0.5
    assert values.shape == (1, 20)
    assert values[0] == pytest.approx(expected, abs=1e-6)


def test_flat_is_not_distinctive_and_one_cell_is():
    assert distinctness(F.normalize(torch.ones(3, 8, 8), dim=0)) == pytest.approx(np.zeros((8, 8)), abs=1e-6)
    assert distinctness(torch.ones(1, 1, 1)).tolist() == [[2]]


@pytest.mark.parametrize(
    "name", ["nemf-small", "nemf-small?zoom=1", "nearest-neighbour:dense-sift?image_size=64", "descriptors:nemf-small"]
)
def test_an_odd_patch_in_a_pattern_is_where_a_matcher_is_sure(name: str):
    """A chequered image with a disk somewhere: the most distinctive cell is at the disk, in any batch of calls."""
    matcher = load_matcher(name, device="cpu")
    y, x = np.mgrid[:192, :256]
    rgb = np.repeat(((x // 8 + y // 8) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    rgb[np.hypot(x - 160, y - 70) < 20] = [255, 0, 0]
    cells = distinctness_of(matcher, rgb)
    assert cells is not None
    assert cells.dtype == np.float32
    inner = cells[3:-3, 3:-3]  # what an image ends in is distinctive too
    row, column = np.unravel_index(inner.argmax(), inner.shape)
    place_xy = (np.array([column, row]) + 3.5) / cells.shape[::-1] * [256, 192]
    assert np.linalg.norm(place_xy - [160, 70]) < 40
    matcher.match(rgb, rgb[::-1].copy(), [[3, 3]])
    assert (distinctness_of(matcher, rgb) == cells).all()


def test_matchers_without_descriptors_have_none():
    class Foreign:
        """A matcher that does not subclass nemf.Matcher."""

        name = fingerprint = "foreign"

        def match_batch(self, pairs):
            return []

    blank = np.zeros((8, 8, 3), np.uint8)
    assert distinctness_of(load_matcher("identity"), blank) is None
    assert distinctness_of(load_matcher("identity?zoom=1"), blank) is None
    assert not isinstance(Foreign(), Matcher)
