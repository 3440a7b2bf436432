import math

import torch

from nemf.search.counter_rng import pair_key, uniform


def test_draws_depend_on_seed_pair_iteration_and_pixel_and_on_nothing_else():
    keys = torch.tensor([pair_key(0, "a"), pair_key(1, "a"), pair_key(0, "b")])
    pixel = torch.arange(2000).expand(3, -1)
    draws = torch.stack([uniform(keys, iteration, pixel) for iteration in range(3)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert len(draws.unique()) > 0.99 * draws.numel()
    assert torch.equal(uniform(keys[1:2], 2, pixel[1:2, 700:703]), draws[2, 1:2, 700:703])


def test_draws_are_uniform_and_uncorrelated():
    n = 100_000
    x, y = uniform(torch.tensor([pair_key(0, "a")]), 0, torch.arange(n)[None])[0].double().T
    for values in (x, y):
        counts = torch.histc(values, bins=100, min=0, max=1)
        assert ((counts - n / 100) ** 2 / (n / 100)).sum() < 160  # chi-squared of 99 degrees of freedom, p = 1e-4
    for other in (y, x.roll(1), y.roll(1)):
        assert torch.corrcoef(torch.stack([x, other]))[0, 1].abs() < 4 / math.sqrt(n)
