import numpy as np
import pytest

from pipeline.evaluation.reliability import Bin, reliability, risk_coverage


def test_bins_hold_equally_many_keypoints():
    confidence = np.array([0.9, 0.1, 0.2, 0.8])
    correct = np.array([True, False, True, True])
    bins = reliability(confidence, correct, n_bins=2)
    assert [bin_.mean for bin_ in bins] == pytest.approx([0.15, 0.85])
    assert bins == [
        Bin(low=0.1, high=0.2, mean=bins[0].mean, n_points=2, percent_correct=50.0),
        Bin(low=0.8, high=0.9, mean=bins[1].mean, n_points=2, percent_correct=100.0),
    ]


def test_equal_confidences_share_a_bin():
    confidence = np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.9])
    correct = np.array([True, False, False, False, False, True])
    bins = reliability(confidence, correct, n_bins=3)
    assert [(bin_.low, bin_.high, bin_.n_points, bin_.percent_correct) for bin_ in bins] == [
        (0.5, 0.5, 5, 20.0),
        (0.9, 0.9, 1, 100.0),
    ]


def test_risk_is_the_share_wrong_among_the_most_confident():
    confidence, correct = np.array([0.6, 0.9, 0.7, 0.8]), np.array([True, True, False, True])
    curve = risk_coverage(confidence, correct)
    assert curve.kept.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.wrong.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 4])
    assert curve.area == pytest.approx((1 / 3 + 1 / 4) / 4)


def test_equal_confidences_are_kept_in_no_order():
    correct = np.array([True, False, False, True])
    assert risk_coverage(np.ones(4), correct).wrong.tolist() == pytest.approx([0.5] * 4)
    some = np.array([0.9, 0.9, 0.1, 0.1])
    forth, back = risk_coverage(some, correct), risk_coverage(some[::-1], correct[::-1])
    assert forth.wrong.tolist() == pytest.approx(back.wrong.tolist())
    assert forth.wrong.tolist() == pytest.approx([0.5, 0.5, 0.5, 0.5])


def test_the_best_order_has_the_least_area():
    correct = np.array([True, False, True, False])
    best = risk_coverage(correct.astype(float), correct)
    assert best.wrong.tolist() == pytest.approx([0, 0, 1 / 3, 1 / 2])
    worst = risk_coverage(-correct.astype(float), correct)
    assert worst.wrong.tolist() == pytest.approx([1, 1, 2 / 3, 1 / 2])
