"""PCK sums, and the METRICS computed from them."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from make import match_rows, pair_row

from pipeline.evaluation import pck_sums
from pipeline.evaluation.bootstrap import BootstrapWeights
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.keypoint_errors import KeypointErrors
from pipeline.evaluation.protocols import protocol
from schemas.pairs import PAIRS

ALPHAS = (0.05, 0.1, 0.3)
N_COUNTS = 3
ENDS = [f"pck_{average}_{end}" for average in ("image", "point", "class_mean") for end in ("low", "high")]


def _of_all(sums: np.ndarray, weights: BootstrapWeights) -> pck_sums.PCKSums:
    """The sums of all of the pairs."""
    (group,) = pck_sums.group_sums(sums, weights, [np.arange(len(sums))])
    return group


def _errors(count: int = 90) -> KeypointErrors:
    """Random pairs over a few images: some without keypoints, some failed."""
    rng = np.random.default_rng(5)
    n_points = rng.integers(0, 8, count)
    failed = (rng.uniform(size=count) < 0.2) & (n_points > 0)
    of_failed = np.repeat(failed, n_points)
    error_px = np.where(of_failed, np.inf, rng.exponential(10, n_points.sum()))
    base_px = np.where(of_failed, 0.0, 100.0)
    return KeypointErrors(
        protocol=protocol("spair"), n_points=n_points, failed=failed, error_px=error_px, base_px=base_px
    )


def _weights(count: int = 90, n_replicates: int = 40) -> BootstrapWeights:
    source, target = np.random.default_rng(6).integers(0, 12, (2, count)).astype(np.uint64)
    return BootstrapWeights(source=source, target=target, seed=0, n_replicates=n_replicates)


def _tables(pairs: list[dict[str, Any]]) -> tuple[pa.Table, pa.Table]:
    """Matches and manifest of pairs with `right`, how many of `of` keypoints are correct; None is a missing match."""
    manifest, matches = [], []
    for index, planted in enumerate(pairs):
        pair = dict(planted)
        right, of = pair.pop("right"), pair.pop("of", 1)
        points = [[10.0 * k, 5.0] for k in range(of)]
        known = {"dataset": "toy", "target_box_xyxy": [0, 0, 100, 50], "source_xy_px": points, "target_xy_px": points}
        manifest.append(pair_row(f"{index:04}", **{**known, **pair}))
        if right is not None:
            predicted = [[x + (0 if k < right else 50), y] for k, (x, y) in enumerate(points)]
            matches.append({"pair_id": f"{index:04}", "query_xy_px": points, "reference_xy_px": predicted})
    return match_rows(*matches), pa.Table.from_pylist(manifest, PAIRS)


def _metrics(pairs: list[dict[str, Any]], **options: Any) -> pa.Table:
    return evaluate(*_tables(pairs), [protocol("spair")], [0.1], **options)


def _of(metrics: pa.Table, kind: str = "all", group: str = "all") -> dict[str, Any]:
    (row,) = (row for row in metrics.to_pylist() if (row["group_kind"], row["group"]) == (kind, group))
    return row


def _width(row: dict[str, Any], average: str = "image") -> float:
    return row[f"pck_{average}_high"] - row[f"pck_{average}_low"]


def _all_with_all(n_images: int) -> list[tuple[int, int]]:
    return [(source, target) for source in range(n_images) for target in range(n_images) if source != target]


def _clustered() -> list[dict[str, Any]]:
    """20 images, each paired with each other: right where the source is of the first 11."""
    return [
        {"source_uri": f"{source}.jpg", "target_uri": f"{target}.jpg", "right": int(source < 11)}
        for source, target in _all_with_all(20)
    ]


def test_a_pair_adds_its_counts_its_share_and_its_correct_keypoints():
    errors = KeypointErrors(
        protocol=protocol("spair"),
        n_points=np.array([4, 0, 2]),
        failed=np.array([False, False, True]),
        error_px=np.array([1, 8, 20, 90, np.inf, np.inf]),
        base_px=np.array([100.0] * 4 + [0.0] * 2),
    )
    wrong = pck_sums.pair_sums(errors, (0.05, 0.1), "wrong")
    assert wrong.tolist() == [[1, 4, 0, 0.25, 0.5, 1, 2], [0] * 7, [1, 2, 1, 0, 0, 0, 0]]
    exclude = pck_sums.pair_sums(errors, (0.05, 0.1), "exclude")
    assert exclude.tolist() == [[1, 4, 0, 0.25, 0.5, 1, 2], [0] * 7, [0, 0, 1, 0, 0, 0, 0]]


def _averages(n_correct: list[int], n_points: list[int], groups: list[list[int]]) -> tuple[list[float], list[float]]:
    """Image and point averages of groups of pairs with so many correct keypoints; T is 100 px and alpha 0.1."""
    error_px = [0.0 if k < right else 50.0 for right, of in zip(n_correct, n_points, strict=True) for k in range(of)]
    errors = KeypointErrors(
        protocol=protocol("spair"),
        n_points=np.array(n_points, np.int64),
        failed=np.zeros(len(n_points), bool),
        error_px=np.array(error_px, np.float64),
        base_px=np.full(len(error_px), 100.0),
    )
    sums = pck_sums.pair_sums(errors, (0.1,), "wrong")
    by_group = pck_sums.group_sums(sums, None, [np.array(group, np.int64) for group in groups])
    assert [of_group.shape for of_group in by_group] == [(1, 5)] * len(groups)
    image, point = (
        [average(of_group)[0, 0] for of_group in by_group]
        for average in (pck_sums.image_average, pck_sums.point_average)
    )
    return image, point


def test_one_of_four_points_wrong_gives_75_percent():
    assert _averages([3], [4], [[0]]) == ([75.0], [75.0])


def test_pairs_without_keypoints_are_in_no_average():
    image, point = _averages([0, 3, 0, 0, 0], [0, 4, 0, 1, 0], [[0, 1, 2, 3, 4]])
    assert image == [37.5]  # (75 + 0) / 2
    assert point == [60.0]  # 3 of 5


def test_averages_per_group_are_nan_for_a_group_of_nothing():
    image, point = _averages([3, 0, 2, 0], [4, 1, 2, 0], [[0, 1], [], [2], [3]])
    assert image == pytest.approx([37.5, np.nan, 100.0, np.nan], nan_ok=True)
    assert point == pytest.approx([60.0, np.nan, 100.0, np.nan], nan_ok=True)


@pytest.mark.parametrize("failed", ["wrong", "exclude"])
def test_the_sums_of_two_halves_add_up_to_those_of_the_whole(failed: Any):
    sums, weights = pck_sums.pair_sums(_errors(), ALPHAS, failed), _weights()
    first = np.arange(90) % 3 == 0
    halves = sum(_of_all(sums[half], weights.select(half)) for half in (first, ~first))
    whole = _of_all(sums, weights)
    assert whole.shape == halves.shape == (41, 9)
    shares = slice(N_COUNTS, N_COUNTS + len(ALPHAS))
    assert np.array_equal(np.delete(halves, shares, axis=1), np.delete(whole, shares, axis=1))
    assert halves[:, shares] == pytest.approx(whole[:, shares])


def test_each_row_counts_the_pairs_as_often_as_the_replicate_has_them():
    sums, weights = pck_sums.pair_sums(_errors(), ALPHAS, "wrong"), _weights(n_replicates=3)
    whole = _of_all(sums, weights)
    for row, often in enumerate([np.ones(90), *weights.replicates(0, 3)]):
        assert whole[row] == pytest.approx(np.repeat(sums, often.astype(int), axis=0).sum(axis=0))


def test_replicates_that_do_not_fit_into_memory_at_once_come_out_the_same(monkeypatch: pytest.MonkeyPatch):
    sums, weights = pck_sums.pair_sums(_errors(), ALPHAS, "wrong"), _weights()
    whole = _of_all(sums, weights)
    for at_once in (1, 90 * 7):
        monkeypatch.setattr(pck_sums, "_MAX_VALUES", at_once)
        assert _of_all(sums, weights) == pytest.approx(whole)


def test_the_first_row_holds_the_plain_averages():
    errors = _errors()
    of = _of_all(pck_sums.pair_sums(errors, ALPHAS, "wrong"), _weights())
    ends = np.cumsum(errors.n_points)
    for number, alpha in enumerate(ALPHAS):
        is_right = np.split(errors.error_px <= alpha * errors.base_px, ends[:-1])
        assert pck_sums.image_average(of)[0, number] == pytest.approx(
            100 * np.mean([x.mean() for x in is_right if len(x)])
        )
        assert pck_sums.point_average(of)[0, number] == pytest.approx(100 * np.concatenate(is_right).mean())
    assert pck_sums.counts(of) == (np.count_nonzero(errors.n_points), errors.n_points.sum(), errors.failed.sum())


def test_the_class_mean_is_over_the_categories_that_have_pairs_in_each_replicate_on_its_own():
    # pairs, keypoints, failed, share, correct
    cat = np.array([[2, 2, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], float)
    dog = np.array([[1, 1, 0, 1, 1], [4, 4, 0, 1, 1], [0, 0, 0, 0, 0]], float)
    none = np.zeros((3, 5))
    mean = pck_sums.class_mean([cat, dog, none])
    assert mean[:2].tolist() == [[75.0], [25.0]]
    assert np.isnan(mean[2]).all()


def test_an_interval_spans_the_middle_95_percent_of_the_replicates():
    replicates = np.random.default_rng(0).permutation(1001) / 10
    percents = np.concatenate([[50.0], replicates])[:, None]
    (low,), (high,) = pck_sums.interval(percents)
    assert (low, high) == pytest.approx((2.5, 97.5))


def test_replicates_without_anything_to_average_are_left_out_of_an_interval():
    percents = np.array([[50.0, 50.0], [20.0, np.nan], [np.nan, np.nan], [20.0, np.nan]])
    low, high = pck_sums.interval(percents)
    assert (low[0], high[0]) == (20.0, 20.0)
    assert np.isnan([low[1], high[1]]).all()
    assert np.isnan(pck_sums.interval(percents[:1])).all()


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_interval_of_independent_pairs_is_that_of_a_binomial(share: float):
    """Each end to 12 % of the half width: four standard errors of that percentile of 2,000 replicates."""
    count = 600
    metrics = _metrics([{"right": int(index < share * count)} for index in range(count)], replicates=2000)
    row = _of(metrics)
    half = 1.96 * 100 * np.sqrt(share * (1 - share) / count)
    assert row["pck_image"] == pytest.approx(100 * share)
    assert row["pck_image_low"] == pytest.approx(100 * share - half, abs=0.12 * half)
    assert row["pck_image_high"] == pytest.approx(100 * share + half, abs=0.12 * half)


def test_pairs_of_shared_images_have_a_much_wider_interval_than_if_they_were_independent():
    clustered = _clustered()
    independent = [{"right": pair["right"]} for pair in clustered]  # inline: no two images are the same
    shared_row, alone_row = _of(_metrics(clustered)), _of(_metrics(independent))
    assert shared_row["pck_image"] == alone_row["pck_image"] == pytest.approx(55.0)
    assert _width(shared_row) > 2.5 * _width(alone_row)
    # what 20 sources alone would have
    assert _width(shared_row) == pytest.approx(2 * 196 * np.sqrt(0.55 * 0.45 / 20), rel=0.3)


def test_the_interval_of_shared_images_holds_what_other_images_give():
    """A hundred worlds of 20 images, each right with probability 0.6: at least 85 intervals hold 60 %, and the ones
    that take pairs for independent hold it in less than 60.
    """
    rng = np.random.default_rng(1)
    source, target = np.array(_all_with_all(20)).T
    shared = BootstrapWeights(
        source=source.astype(np.uint64), target=target.astype(np.uint64), seed=0, n_replicates=200
    )
    each = np.arange(len(source)).astype(np.uint64)
    alone = BootstrapWeights(source=each, target=each, seed=0, n_replicates=200)
    held = np.zeros(2, int)
    for _ in range(100):
        is_right = (rng.uniform(size=20) < 0.6)[source].astype(float)
        sums = np.stack([np.ones_like(is_right), np.ones_like(is_right), 0 * is_right, is_right, is_right], axis=1)
        for kind, weights in enumerate((shared, alone)):
            (low,), (high,) = pck_sums.interval(pck_sums.image_average(_of_all(sums, weights)))
            held[kind] += low <= 60 <= high
    assert held[0] >= 85
    assert held[1] < 60


def test_each_average_has_its_own_interval_around_it():
    pairs = [{"right": index % 2, "of": 1, "category": "cat"} for index in range(40)]
    pairs += [{"right": 5, "of": 6, "category": "dog"} for _ in range(20)]
    row = _of(_metrics(pairs))
    assert row["pck_image"] == pytest.approx(100 * (20 + 20 * 5 / 6) / 60)
    assert row["pck_point"] == pytest.approx(100 * 120 / 160)
    assert row["pck_class_mean"] == pytest.approx(100 * (1 / 2 + 5 / 6) / 2)
    intervals = [
        (row[f"pck_{average}_low"], row[f"pck_{average}_high"]) for average in ("image", "point", "class_mean")
    ]
    assert len(set(intervals)) == 3
    for average, (low, high) in zip(("image", "point", "class_mean"), intervals, strict=True):
        assert low < row[f"pck_{average}"] < high


def test_the_interval_of_a_category_does_not_depend_on_the_others():
    cats = [{**pair, "category": "cat"} for pair in _clustered()]
    dogs = [{**pair, "category": "dog", "source_uri": None, "right": 1} for pair in _clustered()[:50]]
    together, on_their_own = _metrics(dogs + cats, replicates=200), _metrics(cats, replicates=200)
    ends = ENDS[:4]
    mixed, alone = _of(together, "category", "cat"), _of(on_their_own, "category", "cat")
    assert [mixed[end] for end in ends] == pytest.approx([alone[end] for end in ends])
    assert [_of(together)[end] for end in ends] != pytest.approx([alone[end] for end in ends])


def test_nothing_is_nan_and_single_pairs_have_no_interval():
    pairs = [
        {"right": 1, "of": 2, "category": "cat", "truncation": 1},
        {"right": None, "category": "lost"},
        {"right": 2, "of": 3, "category": "dog"},
        {"right": 0, "of": 2, "category": "dog"},
        {"right": 0, "of": 0, "category": "empty"},
    ]
    metrics = _metrics(pairs, failed="exclude")
    for name in metrics.column_names:
        if pa.types.is_floating(metrics[name].type):
            assert np.isfinite(metrics[name].drop_null().to_numpy()).all(), name
    cat, lost, dog, overall = (
        _of(metrics, *group)
        for group in (("category", "cat"), ("category", "lost"), ("category", "dog"), ("all", "all"))
    )
    assert [cat[end] for end in ENDS] == [lost[end] for end in ENDS] == [None] * 6
    assert [_of(metrics, "pair", "0002")[end] for end in ENDS] == [None] * 6
    assert [dog[end] is None for end in ENDS] == [False] * 4 + [True] * 2
    assert None not in [overall[end] for end in ENDS]
    assert "empty" not in metrics["group"].to_pylist()
    # the category of which nothing is left is in no average
    assert (lost["n_pairs"], lost["n_failed"], lost["pck_image"]) == (0, 1, 0.0)
    assert overall["pck_class_mean"] == pytest.approx((50 + 100 / 3) / 2)


def test_without_replicates_there_are_no_intervals_and_the_same_numbers():
    plain, weights = _metrics(_clustered(), replicates=0), _metrics(_clustered(), replicates=50)
    assert all(plain[end].null_count == plain.num_rows for end in ENDS)
    assert plain.drop_columns(ENDS).equals(weights.drop_columns(ENDS))


def test_the_same_seed_gives_the_same_metrics_and_another_only_other_intervals():
    first, again, other = (_metrics(_clustered(), replicates=100, seed=seed) for seed in (3, 3, 4))
    assert first.equals(again, check_metadata=True)
    assert first.drop_columns(ENDS).equals(other.drop_columns(ENDS))
    assert all(_of(first)[end] != _of(other)[end] for end in ENDS)


def test_the_order_of_the_manifest_does_not_matter():
    rng = np.random.default_rng(2)
    pairs = [
        {
            "source_uri": f"{source}.jpg",
            "target_uri": f"{target}.jpg",
            "category": f"{source % 3}",
            "right": int(rng.integers(0, 8)),
            "of": 7,
        }
        for source, target in _all_with_all(8)
    ]
    matches, manifest = _tables(pairs)
    straight, mixed = (
        evaluate(of_matches, of_pairs, [protocol("spair")], replicates=60)
        for of_matches, of_pairs in (
            (matches, manifest),
            (matches.take(rng.permutation(matches.num_rows)), manifest.take(rng.permutation(manifest.num_rows))),
        )
    )
    assert straight.equals(mixed)
    assert len(pd.unique(straight["pck_image_low"].to_pandas().dropna())) > 3
