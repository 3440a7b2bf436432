"""Cost features where matching reads them, beside their definition."""

import pytest
import torch

from nemf.model.field import Field
from nemf.model.pair_costs import POINTS_AT_ONCE, PairCosts
from nemf.model.quadrilinear import sample_quadrilinear


def _field(channels: int, *, keep_correlation: bool) -> Field:
    torch.manual_seed(0)
    field = Field(
        correlation_channels=channels,
        cost_channels=8,
        hidden=8,
        n_blocks=1,
        n_frequencies=3,
        keep_correlation=keep_correlation,
    )
    torch.nn.init.normal_(field.embedding.norm.weight)
    torch.nn.init.normal_(field.embedding.norm.bias)
    return field.requires_grad_(False)


QUERY_XY_NORM = 2.4 * torch.rand(POINTS_AT_ONCE, 2, generator=torch.manual_seed(1)) - 1.2
"""Some of them outside."""


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("keep_correlation", [False, True])
@pytest.mark.parametrize("side", [3, 10, 16])
def test_features_are_those_of_the_field(channels: int, keep_correlation: bool, side: int):
    field = _field(channels, keep_correlation=keep_correlation)
    refined = torch.rand(1, channels, side**2, side**2, generator=torch.manual_seed(2)) ** 2
    with_mean = field.with_mean(refined)
    expected = field.cost_features(with_mean)
    costs = PairCosts(field, with_mean[0])

    assert torch.allclose(costs.volume(), expected[0].flatten(3).flatten(1, 2).permute(2, 1, 0), atol=1e-4)
    cells = torch.linspace(-1, 1, side)
    reference = torch.cartesian_prod(cells, cells).flip(1)
    grid = reference[:, None].expand(-1, POINTS_AT_ONCE, -1).reshape(1, -1, 2)
    at_points = sample_quadrilinear(expected, grid, QUERY_XY_NORM.repeat(side**2, 1)[None])
    assert torch.allclose(costs.at_points(QUERY_XY_NORM).flatten(0, 1), at_points[0], atol=1e-4)


def test_a_larger_image_is_normalised_by_some_of_its_cells():
    field = _field(1, keep_correlation=False)
    refined = torch.rand(1, 1, 32**2, 32**2, generator=torch.manual_seed(2)) ** 2
    expected = field.cost_features(refined)[0].flatten(3).flatten(1, 2).permute(2, 1, 0)
    apart = (PairCosts(field, refined[0]).volume() - expected).square().mean().sqrt() / expected.std()
    assert 1e-5 < apart < 0.02


def test_the_features_of_a_point_depend_on_no_other_point():
    field = _field(1, keep_correlation=True)
    costs = PairCosts(field, torch.rand(1, 25, 25, generator=torch.manual_seed(2)))
    at_points = costs.at_points(QUERY_XY_NORM)
    assert torch.equal(costs.at_points(QUERY_XY_NORM.flip(0)).flip(1), at_points)
