import numpy as np
import pyarrow as pa
import pytest
from labelled import labelled_row

from pipeline.pseudo_labels.label_counts import LabelCounts
from schemas.pairs import PAIRS


def counts(*rows: dict, rows_each: int = 1000) -> LabelCounts:
    labels = LabelCounts()
    for start in range(0, len(rows), rows_each):
        labels.add(pa.Table.from_pylist(list(rows[start : start + rows_each]), PAIRS))
    return labels


def test_sums_by_category():
    labels = counts(
        labelled_row("one", "a", "b"),
        labelled_row("two", "c", "d", category="dog", keypoint_probability=[0.5, 0.5, 0.5]),
        labelled_row("three", "e", "f", keypoint_probability=None),
        labelled_row("four", "e", "f", category=None, keypoint_probability=[1.0, None, float("nan")]),
    )

    total = labels.total
    assert (total.n_pairs, total.n_labels, total.n_judged) == (4, 12, 7)
    assert total.expected == pytest.approx((0.875 + 0.9375 + 0.75 + 1.5 + 1) / 7)
    assert {name: (one.n_pairs, one.n_judged) for name, one in labels.by_category.items()} == {
        "cat": (2, 3),
        "dog": (1, 3),
        "unknown": (1, 1),
    }
    assert labels.histogram.sum() == 7
    assert (labels.histogram[50], labels.histogram[99]) == (3, 1)


def test_one_pair_has_the_interval_of_labels_that_are_right_or_wrong_together():
    labels = counts(labelled_row("one", "a", "b", keypoint_probability=[0.5, 0.5, 0.5]))

    assert labels.total.interval == pytest.approx((0.0, 1.0))  # 0.5 +- 1.96 * 0.5, within 0..1


def test_certain_labels_have_no_interval():
    labels = counts(*(labelled_row(f"{n}", f"{n}", f"{n}b", keypoint_probability=[1.0] * 3) for n in range(5)))

    assert labels.total.interval == pytest.approx((1.0, 1.0))


def test_the_interval_is_that_of_images_and_of_chance():
    """Pairs of one label and two images of their own, half of them at probability 0.8 and half at 1."""
    n_pairs = 2000
    rows = [
        labelled_row(
            f"{n}",
            f"{n}a",
            f"{n}b",
            source_xy_px=[[1.0, 1.0]],
            target_xy_px=[[1.0, 1.0]],
            keypoint_id=["0"],
            keypoint_probability=[0.8 if n % 2 else 1.0],
        )
        for n in range(n_pairs)
    ]

    low, high = counts(*rows).total.interval

    of_images = 3 * 0.1**2 / n_pairs  # the product of two Poisson(1) has a variance of 3
    of_chance = 0.5 * 0.8 * 0.2 / n_pairs
    assert (high + low) / 2 == pytest.approx(0.9)
    assert (high - low) / 2 == pytest.approx(1.96 * np.sqrt(of_images + of_chance), rel=0.1)


def test_the_division_into_tables_makes_no_difference():
    rows = [labelled_row(f"{n}", f"{n % 7}", f"{n % 5}x", category=f"{n % 3}") for n in range(40)]

    one, many = counts(*rows), counts(*rows, rows_each=3)

    assert one.total.interval == pytest.approx(many.total.interval)
    assert one.by_category["1"].interval == pytest.approx(many.by_category["1"].interval)
    assert (one.histogram == many.histogram).all()
