from collections import Counter

import pytest
import torch

from nemf.training.rng import generator_of, uniform
from nemf.training.sampler import Sampler


def test_a_step_depends_on_the_seed_and_the_step_only():
    sampler = Sampler([5, 100], [1, 1], batch_size=8, seed=3)
    in_order = [sampler.picks(step) for step in range(4)]
    again = Sampler([5, 100], [1, 1], batch_size=8, seed=3)
    assert [again.picks(step) for step in (3, 2, 1, 0)] == in_order[::-1]
    assert len({tuple(picks) for picks in in_order}) == 4
    assert Sampler([5, 100], [1, 1], batch_size=8, seed=4).picks(0) != in_order[0]


def test_data_sets_are_mixed_by_weight_and_evenly_inside():
    sampler = Sampler([4, 1000], [3, 1], batch_size=100, seed=0)
    picks = [pick for step in range(40) for pick in sampler.picks(step)]
    assert Counter(pick.dataset for pick in picks)[0] == pytest.approx(3000, abs=150)
    rows = Counter(pick.row for pick in picks if pick.dataset == 0)
    assert sorted(rows) == [0, 1, 2, 3]
    assert all(count == pytest.approx(750, abs=150) for count in rows.values())
    wide = [pick.row for pick in picks if pick.dataset == 1]
    assert 0 <= min(wide) < 20
    assert 980 < max(wide) < 1000


def test_uses_draw_unrelated_numbers():
    uses = [("a", 1, 0), ("a", 10), ("a", 1), ("b", 1), ("a", 0, 1)]
    drawn = [torch.rand(3, generator=generator_of(*use)).tolist() for use in uses]
    assert len({tuple(numbers) for numbers in drawn}) == len(uses)
    assert torch.rand(3, generator=generator_of("a", 1)).tolist() == drawn[2]
    numbers = [uniform(generator_of("u", k), -3, 5) for k in range(1000)]
    assert (min(numbers), max(numbers)) == (pytest.approx(-3, abs=0.1), pytest.approx(5, abs=0.1))


def test_what_cannot_be_drawn_from():
    with pytest.raises(ValueError, match="got 2 sizes, 1 weights"):
        Sampler([1, 2], [1], batch_size=1, seed=0)
    with pytest.raises(ValueError, match="data set 1 must have examples and a weight above 0; got 0 examples"):
        Sampler([1, 0], [1, 1], batch_size=1, seed=0)
    with pytest.raises(ValueError, match="got 2 examples, weight nan"):
        Sampler([1, 2], [1, float("nan")], batch_size=1, seed=0)
