from collections import Counter

import numpy as np

from pipeline.pairing.choose import Choice, choose_pairs
from pipeline.pairing.nearest import rounded
from pipeline.pairing.options import PairingOptions


def choose(degrees: list[float], categories: list[str | None] | None = None, **options: int) -> Choice:
    angles = np.radians(degrees)
    vectors = rounded(np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32))
    return choose_pairs(vectors, categories or [None] * len(degrees), PairingOptions(**options))


def unordered(choice: Choice) -> list[tuple[int, ...]]:
    return [tuple(sorted(pair)) for pair in choice.pairs]


def test_each_with_its_nearest_and_no_pair_twice():
    assert unordered(choose([0, 1, 40, 42], neighbours=1)) == [(0, 1), (2, 3)]
    assert unordered(choose([0, 1, 40, 42], neighbours=2)) == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]
    assert len(choose([0, 1, 40, 42], neighbours=9).pairs) == 6


def test_no_image_is_in_too_many_pairs():
    hub = [45.0] + [45.0 + sign * step for step in (20, 25, 30) for sign in (1, -1)]
    star = np.array([[1, 1, 1, 1]] + [[3 if i == j else 1 for j in range(4)] for i in range(4)], np.float32)
    wanted = PairingOptions(neighbours=1, pairs_per_image=2)
    choice = choose_pairs(rounded(star), [None] * 5, wanted)
    assert len(choice.pairs) == 2
    assert all(0 in pair for pair in choice.pairs)
    assert (choice.over_image, choice.over_category) == (2, 0)
    counts = Counter(row for pair in choose(hub, neighbours=3, pairs_per_image=3).pairs for row in pair)
    assert max(counts.values()) == 3


def test_the_nearest_come_first_where_there_are_too_many():
    pairs = unordered(choose([0, 2, 30, 32, 60, 62], neighbours=5, pairs_per_category=3))
    assert pairs == [(0, 1), (2, 3), (4, 5)]


def test_within_and_across_categories():
    degrees, categories = [0, 1, 2, 10, 11, 12], ["a", "b", "a", "b", "a", "b"]
    assert unordered(choose(degrees, categories, neighbours=1)) == [(0, 2), (1, 3), (2, 4), (3, 5)]
    across = choose(degrees, categories, neighbours=0, neighbours_across=1)
    assert unordered(across) == [(0, 1), (1, 2), (3, 4), (4, 5)]
    both = choose(degrees, categories, neighbours=1, neighbours_across=1, pairs_per_category=1)
    kinds = Counter(tuple(sorted(categories[row] for row in pair)) for pair in both.pairs)
    assert kinds == {("a", "a"): 1, ("b", "b"): 1, ("a", "b"): 1}
    assert both.over_category == 8 - 3


def test_the_seed_decides_which_is_the_source_and_which_of_the_equally_near_are_kept():
    degrees = [float(10 * group + step) for group in range(9) for step in (0, 1)]
    first, again, other = (choose(degrees, neighbours=1, pairs_per_category=4, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert unordered(first) != unordered(other)
    everything = choose(degrees, neighbours=1).pairs
    assert 0 < sum(source < target for source, target in everything) < len(everything)


def test_one_image_has_no_pair():
    assert choose([0]).pairs == []
    assert choose([0, 1], ["a", "b"]).pairs == []
