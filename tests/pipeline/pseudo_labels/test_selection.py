import numpy as np
import pytest

from pipeline.pseudo_labels.selection import Counts, NoLabelsError, Rules, best_of_pair, keys

STEPS = np.array([9500, 9000, 8500, 7000, 4000])


def test_the_threshold_is_the_lowest_whose_mean_probability_is_what_was_asked():
    counts = Counts.of(STEPS, STEPS)

    # means from the top: .95, .925, .9, .85, .76
    assert counts.threshold(0.9) == 8500
    assert counts.threshold(0.9001) == 9000
    assert counts.threshold(0.85) == 7000
    assert counts.threshold(0.1) == 4000
    assert counts.kept(8500) == (3, pytest.approx(2.7))


def test_counts_of_parts_add_up_to_those_of_the_whole():
    parts = Counts.of(STEPS[:2], STEPS[:2]) + Counts.of(STEPS[2:], STEPS[2:])

    assert parts.threshold(0.9) == 8500
    np.testing.assert_array_equal(parts.labels, Counts.of(STEPS, STEPS).labels)


def test_a_minimum_probability_holds_alone_and_with_a_precision():
    counts = Counts.of(STEPS, STEPS)

    assert counts.threshold(None, 0.7) == 7000
    assert counts.threshold(None, 0.7001) == 8500
    assert counts.threshold(0.8, 0.88) == 9000
    assert counts.threshold(0.92, 0.5) == 9000


def test_where_no_label_is_good_enough_the_error_says_the_best_there_is():
    counts = Counts.of(STEPS, STEPS)

    with pytest.raises(
        NoLabelsError, match=r"no label reaches a precision of 0\.96: .* precision of 0\.950, .* 1 label"
    ):
        counts.threshold(0.96)
    with pytest.raises(NoLabelsError, match="no labels to choose from"):
        Counts.of(STEPS[:0], STEPS[:0]).threshold(0.5)


def test_a_pair_that_would_keep_too_few_labels_keeps_none():
    steps, pairs = np.array([9500, 9000, 8500, 7000, 4000]), np.array([2, 2, 1])

    key = keys(steps, pairs, 2)

    assert key.tolist() == [9000, 9000, 7000, 7000, -1]
    # at 7000 both pairs are whole: mean .85; at 9000 the first one alone
    assert Counts.of(steps, key).threshold(0.85) == 7000
    assert Counts.of(steps, key).threshold(0.86) == 9000
    assert Counts.of(steps, key).kept(7000) == (4, pytest.approx(3.4))


def test_the_best_labels_of_a_pair_are_the_most_probable_and_of_equal_ones_the_first():
    steps = np.array([5, 7, 7, 1, 7])

    assert best_of_pair(steps, np.array([3, 0, 2]), 1).tolist() == [False, True, False, False, True]
    assert best_of_pair(steps, np.array([5]), 2).tolist() == [False, True, True, False, False]
    assert best_of_pair(steps, np.array([5]), None).all()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"precision": 1.2}, "--precision is a share"),
        ({"min_probability": -0.1}, "--min-probability is a share"),
        ({"max_cycle": float("nan")}, "--max-cycle"),
        ({"per_pair": 0}, "--per-pair must be at least 1"),
        ({"per_pair": 2, "min_points": 3}, "no pair can have 3 labels"),
    ],
)
def test_rules_out_of_range_are_refused(rules: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        Rules(**rules).check()
