"""BootstrapWeights of images. Tolerances of statistics are four standard errors of what a Poisson(1) number has."""

from math import exp, factorial

import numpy as np
import pyarrow as pa
import pytest

from pipeline.evaluation.bootstrap import BootstrapWeights, bootstrap_weights, image_keys, shared_images
from schemas.pairs import PAIRS

MANY = 10_000
RING = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "a"), ("a", "c")]


def _pairs(*images: tuple[str | None, str | None]) -> pa.Table:
    rows = [
        {"pair_id": f"pair {index}", "source_uri": source, "target_uri": target}
        for index, (source, target) in enumerate(images)
    ]
    return pa.Table.from_pylist(rows, PAIRS)


def _weights(*images: tuple[str | None, str | None], seed: int = 0, n_replicates: int = 50) -> BootstrapWeights:
    return bootstrap_weights(_pairs(*images), seed, n_replicates)


def _alone(count: int, **options: int) -> BootstrapWeights:
    """This number of pairs, each of images that are in no other pair."""
    return _weights(*((f"{index} left", f"{index} right") for index in range(count)), **options)


def _all_replicates(weights: BootstrapWeights) -> np.ndarray:
    return weights.replicates(0, weights.n_replicates)


def _is_poisson(weights: np.ndarray) -> bool:
    """Mean, variance and the frequencies of 0..4 are those of Poisson(1)."""
    count = len(weights)
    frequencies = np.bincount(weights.astype(int), minlength=5)[:5] / count
    expected = np.array([exp(-1) / factorial(k) for k in range(5)])
    return bool(
        abs(weights.mean() - 1) < 4 / count**0.5
        and abs(weights.var() - 1) < 4 * (3 / count) ** 0.5  # the fourth central moment is 4
        and (abs(frequencies - expected) < 4 * (expected / count) ** 0.5).all()
    )


def test_the_order_of_the_pairs_does_not_matter():
    forward, backward = _weights(*RING), _weights(*RING[::-1])
    assert np.array_equal(_all_replicates(forward), _all_replicates(backward)[:, ::-1])


@pytest.mark.parametrize("chosen", [np.array([False, True, True, False, True]), np.array([4, 1, 2])])
def test_the_draws_of_some_pairs_are_theirs_among_all(chosen: np.ndarray):
    weights = _weights(*RING, ("e", "f"))
    chosen = np.append(chosen, True) if chosen.dtype == bool else np.append(chosen, 5)
    some = weights.select(chosen)
    assert (some.seed, some.n_replicates) == (weights.seed, weights.n_replicates)
    assert np.array_equal(_all_replicates(some), _all_replicates(weights)[:, chosen])


def test_a_part_of_a_manifest_is_drawn_as_in_the_whole_when_told_which_images_are_shared():
    pairs = _pairs(*RING, ("e", "f"), ("g", "a"))
    shared = shared_images(*image_keys(pairs))
    whole = _all_replicates(bootstrap_weights(pairs, 0, 50))
    for first, last in ((0, 1), (1, 5), (5, 7)):
        part = bootstrap_weights(pairs.slice(first, last - first), 0, 50, shared)
        assert np.array_equal(_all_replicates(part), whole[:, first:last])


def test_an_image_is_shared_that_occurs_more_than_once_on_either_side():
    pairs = _pairs(("a", "b"), ("b", "c"), ("d", "e"), ("f", "f"), (None, "g"), (None, "g"))
    source, target = image_keys(pairs)
    assert set(shared_images(source, target)) == {target[0], source[3], target[4]}


def test_replicates_can_be_drawn_in_pieces():
    weights = _weights(*RING)
    pieces = [weights.replicates(first, last) for first, last in ((0, 1), (1, 20), (20, 50))]
    assert np.array_equal(np.concatenate(pieces), _all_replicates(weights))


def test_two_manifests_over_the_same_images_have_the_same_replicates():
    first, second = _weights(("a", "b"), ("b", "a"), ("a", "c")), _weights(("x", "b"), ("x", "a"), ("a", "b"))
    assert np.array_equal(_all_replicates(first)[:, 0], _all_replicates(second)[:, 2])


def test_weights_are_numbers_of_draws():
    weights = _all_replicates(_weights(*RING))
    assert (weights.shape, weights.dtype) == ((50, 5), np.float64)
    assert np.array_equal(weights, weights.astype(int))
    assert weights.min() == 0


def test_an_image_is_drawn_a_poisson_number_of_times_over_images_and_over_replicates():
    assert _is_poisson(_alone(MANY).replicates(7, 8)[0])
    assert all(_is_poisson(of_pair) for of_pair in _alone(3).replicates(0, MANY).T)


def test_a_pair_whose_images_are_in_no_other_is_drawn_as_one():
    assert _is_poisson(_weights(*RING, ("only", "here")).replicates(0, MANY)[:, 5])


def test_a_pair_of_an_image_with_itself_is_drawn_as_one():
    assert _is_poisson(_weights(("a", "a"), ("a", "b")).replicates(0, MANY)[:, 0])


def test_a_pair_of_shared_images_is_drawn_as_often_as_their_product():
    a, b, ab, ba = _all_replicates(_weights(("a", "a"), ("b", "b"), ("a", "b"), ("b", "a"), n_replicates=MANY)).T
    assert np.array_equal(ab, a * b)
    assert np.array_equal(ba, ab)
    # E[x^2] E[y^2] - 1 = 3; the fourth moment is 15 for an image, so 15^2 for a pair
    assert abs(ab.var() - 3) < 4 * 15 / MANY**0.5


def test_a_pair_of_which_one_image_is_shared_is_a_product_too():
    a, ab, ac = _all_replicates(_weights(("a", "a"), ("a", "b"), ("a", "c"), n_replicates=MANY)).T
    for of_pair in (ab, ac):
        assert not of_pair[a == 0].any()
        assert _is_poisson(of_pair[a == 1])
    assert not np.array_equal(ab, ac)


@pytest.mark.parametrize("seed", [0, 1, 2**31])
def test_images_replicates_and_seeds_are_unrelated(seed: int):
    weights = _alone(2, seed=seed).replicates(0, MANY)
    limit = 4 / MANY**0.5
    assert abs(np.corrcoef(weights.T)[0, 1]) < limit
    assert abs(np.corrcoef(weights[1:, 0], weights[:-1, 0])[0, 1]) < limit
    other = _alone(2, seed=seed + 1).replicates(0, MANY)
    assert abs(np.corrcoef(weights[:, 0], other[:, 0])[0, 1]) < limit
    assert abs(np.corrcoef(weights[1:, 0], other[:-1, 0])[0, 1]) < limit


def test_draws_do_not_change_from_one_version_to_the_next():
    """If our hash or pandas' did, so would every interval that was ever reported."""
    assert _weights(*RING, ("e", "f")).replicates(0, 3).astype(int).tolist() == [
        [1, 1, 0, 0, 1, 3],
        [1, 2, 6, 3, 2, 0],
        [0, 2, 2, 0, 0, 0],
    ]


def test_inline_images_are_told_apart_by_pair():
    first, second, sources, targets = (
        _weights((None, None), (None, None), (None, "a"), ("b", None), ("a", "b")).replicates(0, MANY).T[:4]
    )
    assert _is_poisson(first)
    assert _is_poisson(second)
    limit = 4 / MANY**0.5
    assert abs(np.corrcoef(first, second)[0, 1]) < limit
    assert abs(np.corrcoef(sources, targets)[0, 1]) < limit
    assert abs(sources.var() - 3) < 4 * 15 / MANY**0.5


def test_no_pairs_have_no_weights():
    assert _all_replicates(_weights()).shape == (50, 0)
