"""Where descriptors stand out: planted ones, and every matcher that has some."""

import numpy as np
import pytest
import skimage
import torch
import torch.nn.functional as F

from nemf import load_matcher
from nemf.matcher import salience_of
from nemf.matchers.salience import dissimilarity, length


def test_dissimilarity_by_hand():
    """20 cells at right angles, but for two twins at a distance, two at 60 degrees, and two side by side, which do not
    count."""
    cells = torch.eye(20)
    cells[10] = cells[0]
    cells[15] = 0.5 * cells[5] + 0.75**0.5 * cells[15]
    cells[18] = cells[17]
    expected = np.ones(20)
    expected[[0, 10]] = 0
    expected[[5, 15]] = 0.5
    values = dissimilarity(cells.T[:, None])
    assert values.shape == (1, 20)
    assert values[0] == pytest.approx(expected, abs=1e-6)


def test_flat_is_not_salient_and_one_cell_is():
    assert dissimilarity(F.normalize(torch.ones(3, 8, 8), dim=0)) == pytest.approx(np.zeros((8, 8)), abs=1e-6)
    assert dissimilarity(torch.ones(1, 1, 1)).tolist() == [[2]]


def test_length_by_hand():
    assert length(torch.tensor([[[3.0, 0.0]], [[4.0, -2.0]]])).tolist() == [[5, 2]]


def test_features_find_an_odd_patch_in_a_pattern():
    matcher = load_matcher("nearest-neighbour:dense-sift?image_size=64", device="cpu")
    y, x = np.mgrid[:192, :256]
    rgb = np.repeat(((x // 32 + y // 32) % 2 * 255).astype(np.uint8)[..., None], 3, axis=2)
    rgb[np.hypot(x - 160, y - 70) < 30] = 128
    cells = salience_of(matcher, rgb)
    assert cells is not None
    assert (cells.shape, cells.dtype) == ((8, 8), np.float32)
    row, column = np.unravel_index(cells.argmax(), cells.shape)
    place_xy = (np.array([column, row]) + 0.5) / 8 * [256, 192]
    assert np.linalg.norm(place_xy - [160, 70]) < 50


@pytest.mark.parametrize("name", ["nemf-small", "nemf-small?zoom=1", "descriptors:nemf-small"])
def test_trained_networks_have_one_map_whatever_was_matched_before(name: str):
    matcher = load_matcher(name, device="cpu")
    rgb = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    cells = salience_of(matcher, rgb)
    assert cells is not None
    assert (cells.shape, cells.dtype) == ((40, 40), np.float32)
    matcher.match(rgb, rgb[::-1].copy(), [[3, 3]])
    assert (salience_of(matcher, rgb) == cells).all()


def test_trained_descriptors_are_long_at_the_eyes_and_nose_of_a_cat():
    image = skimage.data.chelsea()
    cells = salience_of(load_matcher("nemf-small", device="cpu"), image)
    assert cells is not None
    for x, y in ((171, 112), (317, 136), (264, 243)):
        row, column = int(y / 300 * cells.shape[0]), int(x / 451 * cells.shape[1])
        assert (cells < cells[row - 1 : row + 2, column - 1 : column + 2].max()).mean() > 0.9


def test_matchers_without_descriptors_have_none():
    class Foreign:
        """A matcher that does not subclass nemf.Matcher."""

        name = fingerprint = "foreign"

        def match_batch(self, pairs):
            return []

    blank = np.zeros((8, 8, 3), np.uint8)
    assert salience_of(load_matcher("identity"), blank) is None
    assert salience_of(load_matcher("identity?zoom=1"), blank) is None
    assert salience_of(Foreign(), blank) is None
