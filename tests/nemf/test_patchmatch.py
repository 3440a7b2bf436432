import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nemf.coordinates import pixel_grid, px_to_norm
from nemf.search.cone import steps_to_points
from nemf.search.noise import pair_key, uniform
from nemf.search.patchmatch import patchmatch

HW = (9, 13)


def affine(target_xy_norm: torch.Tensor) -> torch.Tensor:
    """Where a target point truly is in the source."""
    turn = torch.tensor([[0.8, 0.1], [-0.2, 0.7]])
    return target_xy_norm @ turn.T + torch.tensor([0.05, -0.1])


class Paraboloid:
    """Greatest where the source point is where the affine map puts the target point; counts what it is asked."""

    def __init__(self) -> None:
        self.n_queries = 0

    def __call__(self, source_xy_norm: torch.Tensor, target_xy_norm: torch.Tensor) -> torch.Tensor:
        self.n_queries += source_xy_norm.shape[0] * source_xy_norm.shape[1]
        return -(source_xy_norm - affine(target_xy_norm)).square().sum(dim=-1)


def true_field(hw: tuple[int, int]) -> torch.Tensor:
    return affine(px_to_norm(pixel_grid(hw), hw)).permute(2, 0, 1)[None]


def rough(hw: tuple[int, int], batch: int = 1, size: float = 0.09, seed: int = 0) -> torch.Tensor:
    """The true field with errors of up to `size`."""
    errors = torch.rand(batch, 2, *hw, generator=torch.Generator().manual_seed(seed))
    return true_field(hw) + size * (2 * errors - 1)


def test_an_affine_field_is_recovered():
    start = rough((24, 32))
    assert (start - true_field((24, 32))).abs().mean() > 0.04
    found = patchmatch(Paraboloid(), start, iterations=60)
    assert (found - true_field((24, 32))).abs().mean() < 0.01
    assert (found - true_field((24, 32))).abs().max() < 0.04


def test_one_iteration_by_hand():
    """Three pixels in a row; all want to be at 1. The middle one starts best, the steps are given."""

    def score(source_xy_norm: torch.Tensor, target_xy_norm: torch.Tensor) -> torch.Tensor:
        return -(source_xy_norm - 1).abs().sum(dim=-1)

    start = torch.tensor([[[[0.0, 0.5, 0.45]], [[0.0, 0.5, 0.45]]]])
    noise = torch.tensor([[[[[0.75, 0.75], [0.75, 0.25], [0.0, 0.0]]]]])
    found = patchmatch(score, start, iterations=1, radius_norm=0.1, noise=noise)
    # left: takes 0.5, steps to 0.55, and is brought back to 0 + 0.1
    # middle: keeps 0.5; the step (+0.05, -0.05) is no better; right: takes 0.5, refuses the step to 0.4
    assert torch.allclose(found, torch.tensor([[[[0.1, 0.5, 0.5]], [[0.1, 0.5, 0.5]]]]))


def test_a_clamped_place_is_scored_again():
    """After the clamp the old score is too good; a neighbour that beats the clamped place must win."""

    def score(source_xy_norm: torch.Tensor, target_xy_norm: torch.Tensor) -> torch.Tensor:
        return -(source_xy_norm - 1).abs().sum(dim=-1)

    start = torch.tensor([[[[0.0, 0.5]], [[0.0, 0.5]]]])
    noise = torch.full((2, 1, 1, 2, 2), 0.5)
    noise[1, 0, 0, 0] = 1.0 - 1e-6  # a step of +0.1 that beats the clamped 0.1, but not the 0.5 it came from
    found = patchmatch(score, start, iterations=2, noise=noise)
    assert torch.allclose(found[0, :, 0, 0], torch.tensor([0.1, 0.1]))
    assert torch.equal(found, patchmatch(score, start, iterations=1, noise=noise[:1]))


def test_nothing_leaves_its_radius():
    start = rough(HW, size=0.5)
    found = patchmatch(Paraboloid(), start, iterations=5, radius_norm=0.03)
    assert (found - start).abs().max() <= 0.03 + 1e-6
    assert torch.equal(patchmatch(Paraboloid(), start, iterations=0), start)


@pytest.mark.parametrize("hw", [(1, 1), (1, 7), (6, 1), (2, 2)])
def test_grids_with_hardly_a_neighbour(hw: tuple[int, int]):
    score = Paraboloid()
    found = patchmatch(score, rough(hw), iterations=4)
    target = px_to_norm(pixel_grid(hw), hw).view(1, -1, 2)
    before, after = (score(field.flatten(2).transpose(1, 2), target) for field in (rough(hw), found))
    assert (after >= before).all()


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    st.integers(0, 6),
    st.lists(st.tuples(st.floats(-3, 16, width=32), st.floats(-3, 12, width=32)), min_size=1, max_size=4),
)
def test_the_cone_gives_exactly_what_the_whole_grid_gives(iterations: int, points: list[tuple[float, float]]):
    points_px = torch.tensor([points, points[::-1]])
    score, start = Paraboloid(), rough(HW, batch=2)
    keys = torch.tensor([3, 4])
    dense = patchmatch(score, start, iterations, pair_keys=keys)
    cone = patchmatch(score, start, iterations, pair_keys=keys, points_px=points_px)
    read = (steps_to_points(points_px, HW, 0) == 0)[:, None].expand(-1, 2, -1, -1)
    assert read.any()
    assert torch.equal(cone[read], dense[read])


def test_the_cone_asks_for_the_diamonds_only():
    """One pixel far from the border: iteration i of 3 computes the 1 + 4 + 8 .. pixels within 2 - i steps."""
    hw = (21, 21)
    score = Paraboloid()
    patchmatch(score, true_field(hw), iterations=3, points_px=torch.tensor([[[10.0, 10.0]]]))
    own, pixels = 13, 13 + 5 + 1
    assert score.n_queries == own + 5 * pixels


def test_steps_to_points_are_the_distances_by_hand():
    points_px = torch.tensor([[[1.0, 0.0], [3.5, 2.0]]])
    expected = [
        [1, 0, 1, 2, 2],
        [2, 1, 2, 1, 1],
        [3, 2, 1, 0, 0],
    ]
    assert steps_to_points(points_px, (3, 5), most=3)[0].tolist() == expected
    assert steps_to_points(points_px, (3, 5), most=1)[0, 2].tolist() == [2, 2, 1, 0, 0]


def test_a_pair_does_not_depend_on_its_batch():
    start = torch.cat([rough(HW, seed=seed) for seed in (1, 2)])
    keys = torch.tensor([pair_key(0, "a"), pair_key(0, "b")])
    together = patchmatch(Paraboloid(), start, 6, pair_keys=keys)
    for index in (0, 1):
        alone = patchmatch(Paraboloid(), start[index : index + 1], 6, pair_keys=keys[index : index + 1])
        assert torch.equal(alone[0], together[index])
    assert not torch.equal(patchmatch(Paraboloid(), start, 6, pair_keys=keys.flip(0)), together)


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


def test_inputs_that_will_not_do():
    with pytest.raises(ValueError, match=r"noise must have shape \(2, 1, 9, 13, 2\), .* got \(3, 1, 9, 13, 2\)"):
        patchmatch(Paraboloid(), true_field(HW), 2, noise=torch.zeros(3, 1, *HW, 2))
    with pytest.raises(ValueError, match="iterations must be at least 0"):
        patchmatch(Paraboloid(), true_field(HW), -1)
