import numpy as np
import pytest

from pipeline.pairing import nearest
from pipeline.pairing.nearest import LENGTH, nearest_rows, rounded


def on_a_circle(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return rounded(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32) * 7)


def test_rounded_vectors_have_one_length_whatever_theirs_was():
    vectors = rounded(np.array([[3, 4], [0.003, 0.004], [0, 0]], np.float32))
    assert vectors.tolist() == [[LENGTH * 3 // 5, LENGTH * 4 // 5]] * 2 + [[0, 0]]


def test_nearest_first_and_never_itself():
    vectors = on_a_circle(0, 10, 25, 90)
    rows = np.arange(4)
    assert nearest_rows(vectors, rows, rows, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]


def test_among_some_and_missing_ones():
    vectors = on_a_circle(0, 10, 25, 90)
    assert nearest_rows(vectors, np.array([0, 3]), np.array([0, 3]), 3).tolist() == [[3, -1, -1], [0, -1, -1]]
    assert nearest_rows(vectors, np.array([1]), np.array([0, 2, 3]), 2).tolist() == [[0, 2]]
    assert nearest_rows(vectors, np.array([1]), np.array([], np.int64), 2).tolist() == [[-1, -1]]


def test_itself_is_left_out_among_equals():
    vectors = on_a_circle(*[30] * 12)
    found = nearest_rows(vectors, np.arange(12), np.arange(12), 3)
    assert all(row not in found[row] for row in range(12))
    assert (found >= 0).all()


@pytest.mark.parametrize("at_once", [1, 7, 64])
def test_the_same_whatever_is_searched_together(monkeypatch, at_once):
    vectors = np.random.default_rng(0).integers(-2, 3, (200, 4)).astype(np.int16)  # many are equally near
    rows = np.arange(200)
    together = nearest_rows(vectors, rows, rows, 8)
    products = vectors.astype(np.int64) @ vectors.T.astype(np.int64)
    np.fill_diagonal(products, -99)
    best = -np.sort(-products, axis=1)[:, :8]
    assert np.array_equal(np.take_along_axis(products, together, axis=1), best)
    monkeypatch.setattr(nearest, "_QUERIES_AT_ONCE", at_once)
    assert np.array_equal(nearest_rows(vectors, rows, rows, 8), together)
