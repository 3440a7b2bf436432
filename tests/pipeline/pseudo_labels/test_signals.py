import numpy as np
import pyarrow as pa
import pytest
from make import match_rows

from pipeline.pseudo_labels.signals import neighbour_error, others_mean, signals

ROTATED = np.array([[0.8, -0.3], [0.4, 0.9]])


def grid(n: int = 4) -> np.ndarray:
    """(n * n, 2) points of the unit square."""
    return np.stack(np.meshgrid(np.linspace(0, 1, n), np.linspace(0, 1, n)), -1).reshape(-1, 2)


def test_an_affine_map_has_little_error_and_a_point_off_it_has_its_distance():
    query = grid()
    reference = query @ (np.eye(2) + 0.02 * ROTATED) + [3, -2]
    moved = reference.copy()
    moved[5] += [0.3, 0.4]

    smooth = neighbour_error(query, reference, np.array([16]))
    error = neighbour_error(query, moved, np.array([16]))

    assert smooth.max() < 0.01
    assert error[5] == pytest.approx(0.5, abs=0.01)
    # neighbours of the wrong one are hardly blamed
    assert np.delete(error, 5).max() < 0.1


def test_a_point_that_is_alone_has_no_neighbours_and_two_are_compared_by_their_displacement():
    query = np.array([[0.0, 0.0], [0.0, 0.0], [0.5, 0.0]])
    reference = np.array([[9.0, 9.0], [1.0, 1.0], [1.5, 1.25]])

    error = neighbour_error(query, reference, np.array([1, 2]))

    np.testing.assert_allclose(error, [np.nan, 0.25, 0.25])


def test_the_mean_of_a_pairs_other_points_leaves_the_point_itself_out():
    error = np.array([0.98, 0.08, 0.03, np.nan])

    others = others_mean(error, np.array([3, 1]))

    np.testing.assert_allclose(np.exp(others[:3]), np.sqrt([0.1 * 0.05, 1.0 * 0.05, 1.0 * 0.1]))
    assert np.isnan(others[3])


def test_a_pair_has_the_same_errors_bit_for_bit_whatever_is_judged_with_it():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 30, 200)
    query, reference = rng.random((2, counts.sum(), 2))

    together = neighbour_error(query, reference, counts)
    ends = np.cumsum(counts)
    alone = [
        neighbour_error(query[end - n : end], reference[end - n : end], np.array([n]))
        for end, n in zip(ends, counts, strict=True)
    ]

    np.testing.assert_array_equal(together, np.concatenate(alone))


def rows(**columns: object) -> pa.Table:
    point = {"query_xy_px": [[0, 0], [10, 0]], "reference_xy_px": [[5, 5], [15, 5]]}
    return match_rows({"pair_id": "a", "query_hw": [40, 20], "reference_hw": [80, 10], **point, **columns})


def test_cycle_errors_are_shares_of_the_box_and_of_the_image_without_one():
    table = rows(point_cycle_error_px=[4, None])

    with_box, without = (signals(table, np.array([side]), np.array([np.nan]))["cycle"] for side in (16.0, np.nan))

    np.testing.assert_allclose(with_box, [0.25, np.nan])
    np.testing.assert_allclose(without, [0.1, np.nan])


def test_signals_without_a_column_are_absent():
    size = np.array([50.0])

    assert list(signals(rows(), size, size)) == ["neighbours", "pair"]
    assert list(signals(rows(point_margin=[1, 2], point_confidence=[0, 1]), size, size)) == [
        "confidence",
        "margin",
        "neighbours",
        "pair",
    ]


def test_agreement_is_the_distance_of_two_runs_answers_as_a_share_of_the_reference():
    size = np.array([50.0])
    other = rows(reference_xy_px=[[5, 5], [18, 9]])

    np.testing.assert_allclose(signals(rows(), size, size, other)["agreement"], [0, 0.1])
    lacking = other.take(pa.array([None], pa.int64()))
    np.testing.assert_allclose(signals(rows(), size, size, lacking)["agreement"], [np.nan, np.nan])
    with pytest.raises(ValueError, match="pair a was asked for other points in the run of --agree"):
        signals(rows(), size, size, rows(query_xy_px=[[0, 0], [11, 0]]))


def test_a_row_whose_lists_differ_in_length_is_refused_by_name():
    with pytest.raises(ValueError, match="pair a has another number of point_margin than of points"):
        signals(rows(point_margin=[1, 2, 3]), np.array([1.0]), np.array([1.0]))
