import math

import pytest
import torch

from nemf.search.refine import rate, refine

MAXIMUM = torch.tensor([0.3, -0.2])


def paraboloid(reference_xy_norm: torch.Tensor) -> torch.Tensor:
    return -(reference_xy_norm - MAXIMUM).square().sum(dim=-1)


def test_the_schedule_by_hand():
    assert rate(0, 20, 3e-4) == pytest.approx(3e-4)
    assert rate(10, 20, 3e-4) == pytest.approx((3e-4 + 1e-6) / 2)
    assert rate(20, 20, 3e-4) == pytest.approx(1e-6)


def test_two_steps_by_hand():
    """AdamW's first step is one rate long in each coordinate, whatever the gradient; weights decay by rate x 0.01."""
    start = torch.tensor([[[0.1, 0.2]]])
    after_one = refine(paraboloid, start, steps=1, lr=1e-3)[0, 0]
    expected = [0.1 * (1 - 1e-5) + 1e-3, 0.2 * (1 - 1e-5) - 1e-3]
    assert torch.allclose(after_one, torch.tensor(expected), atol=1e-7, rtol=0)

    def gradient(x: float, y: float, maximum: torch.Tensor = MAXIMUM) -> list[float]:
        dx, dy = x - maximum[0].item(), y - maximum[1].item()
        probability = 1 / (1 + math.exp(dx**2 + dy**2))
        return [2 * (1 - probability) * dx, 2 * (1 - probability) * dy]

    first = gradient(0.1, 0.2)
    second = gradient(*expected)
    for axis, (one, two) in enumerate(zip(first, second, strict=True)):
        momentum = (0.9 * 0.1 * one + 0.1 * two) / (1 - 0.9**2)
        square = (0.999 * 0.001 * one**2 + 0.001 * two**2) / (1 - 0.999**2)
        expected[axis] += -1e-5 * expected[axis] - 1e-3 * momentum / (math.sqrt(square) + 1e-8)
    after_two = refine(paraboloid, start, steps=2, lr=1e-3)[0, 0]  # both steps use the first rate
    assert torch.allclose(after_two, torch.tensor(expected), atol=1e-7, rtol=0)


def test_the_maximum_is_found_where_it_is_near():
    start = MAXIMUM + torch.tensor([[[0.05, -0.04], [0.0, 0.0], [-0.06, 0.06]]])
    assert (refine(paraboloid, start, steps=200, lr=3e-3) - MAXIMUM).abs().max() < 2e-3


def test_no_point_leaves_its_radius():
    start = torch.zeros(2, 3, 2)
    actual = refine(paraboloid, start, steps=50, lr=1e-2, radius_norm=0.02)
    assert torch.allclose(actual, torch.tensor([0.02, -0.02]).expand(2, 3, 2))
    assert torch.equal(refine(paraboloid, start, steps=0), start)


def test_every_point_is_optimised_as_if_it_were_alone():
    start = torch.rand(2, 16, 2, generator=torch.Generator().manual_seed(0))
    together = refine(paraboloid, start)
    alone = torch.cat([refine(paraboloid, start[:, index : index + 1]) for index in range(16)], dim=1)
    assert torch.allclose(together, alone, atol=1e-7, rtol=0)


def test_callers_need_not_enable_gradients_and_their_tensor_stays():
    start = torch.zeros(1, 1, 2)
    with torch.no_grad():
        actual = refine(paraboloid, start)
    assert not actual.requires_grad
    assert start.abs().max() == 0
    assert actual.abs().min() > 1e-3


def test_numbers_out_of_range():
    with pytest.raises(ValueError, match=r"refine_lr must be a number above 0 and below 1e6; got 0\.0"):
        refine(paraboloid, torch.zeros(1, 1, 2), lr=0.0)
