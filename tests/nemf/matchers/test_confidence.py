"""The mass of planted score maps."""

import pytest
import torch

from nemf.coordinates import pixel_grid, rescale_px
from nemf.matchers.confidence import POINTS_AT_ONCE, flow_mass, mass_maps, point_mass, read_maps

HW = (320, 320)
"""Of a reference whose 32 x 32 cells have 10 pixels a side; the radius is 19.2."""


def planted(*cells: tuple[int, int], score: float = 30.0) -> torch.Tensor:
    """A score map that is 0 but at some cells (row, column)."""
    scores = torch.zeros(32, 32)
    for row, column in cells:
        scores[row, column] = score
    return scores


def centre_px(row: float, column: float) -> list[float]:
    return [10 * column + 4.5, 10 * row + 4.5]


def mass(scores: torch.Tensor, *answers_px: list[float], temperature: float = 1.0) -> list[float]:
    repeated = scores.expand(len(answers_px), 32, 32)
    return point_mass(repeated, torch.tensor(answers_px), HW, temperature).tolist()


def test_one_place_is_all_of_it_as_far_as_the_radius():
    at, near, edge, far = mass(planted((8, 20)), *(centre_px(8, 20 + d) for d in (0, 1, 2, 4)))
    assert at == pytest.approx(1, abs=1e-6)
    assert near == pytest.approx(1, abs=1e-6)
    assert edge == pytest.approx((19.2 - 20) / 10 + 0.5, abs=1e-6)
    assert far == pytest.approx(0, abs=1e-6)


def test_equal_places_share_it():
    maps = planted((8, 4), (8, 20), (25, 25), (30, 2))
    assert mass(maps, centre_px(8, 20), centre_px(16, 16)) == pytest.approx([0.25, 0], abs=1e-6)
    close = planted((8, 20), (8, 21))
    assert mass(close, centre_px(8, 20)) == pytest.approx([1], abs=1e-6)


def test_the_temperature_divides_the_scores():
    scores = planted((8, 20), score=3.0)
    expected = [torch.tensor(3 / t).exp() for t in (1.0, 0.25)]
    at_answer = [mass(scores, centre_px(8, 20), temperature=t)[0] for t in (1.0, 0.25)]
    assert at_answer[1] == pytest.approx(float(expected[1] / (expected[1] + 1023)), abs=1e-3)
    assert at_answer[0] < at_answer[1]


def test_a_map_that_tells_nothing_has_the_mass_of_the_disc():
    (uniform,) = mass(torch.full((32, 32), -7.0), centre_px(16, 16))
    assert uniform == pytest.approx(3.1416 * 0.06**2, rel=0.1)


def test_the_radius_is_a_share_of_the_longer_side():
    """Cells of 160 x 320 pixels are 5 high and 10 wide: 3 of them up, and 1.5 across, are within the 19.2 pixels."""
    scores = planted((16, 16))
    xy_px = torch.tensor([[164.5, 82.0 + 15], [164.5 + 15, 82.0], [164.5, 82.0 + 30]])
    values = point_mass(scores.expand(3, 32, 32), xy_px, (160, 320), 1.0)
    up, across_20_px = (19.2 - 15) / 10 + 0.5, (19.2 - 20) / 10 + 0.5
    assert values.tolist() == pytest.approx([up, (1 + across_20_px) / 2, 0], abs=1e-5)


def test_reading_is_linear_between_centres_and_constant_beyond():
    maps = torch.arange(4.0).view(1, 2, 2) * torch.tensor([1.0, 10.0]).view(2, 1, 1)
    xy_px = torch.tensor([[0.5, 0.5], [1.5, 1.5], [-20, 0.5], [1.5, 1.5]])
    index = torch.tensor([0, 0, 0, 1])
    assert read_maps(maps, index, xy_px, (4, 4)).tolist() == pytest.approx([0, 1.5, 0, 15])


def test_masses_do_not_depend_on_how_many_are_asked_for():
    scores = torch.randn(POINTS_AT_ONCE, 32, 32, generator=torch.Generator().manual_seed(0))
    xy_px = torch.rand(POINTS_AT_ONCE, 2, generator=torch.Generator().manual_seed(1)) * 320
    together = point_mass(scores, xy_px, HW, 1.4)
    apart = torch.cat([point_mass(scores[i : i + 1], xy_px[i : i + 1], HW, 1.4) for i in range(POINTS_AT_ONCE)])
    assert torch.equal(together, apart)


def shifted_maps(shift_px: float) -> torch.Tensor:
    """Mass maps of 4 x 4 places of a query of 320 x 320, each at its own place shifted to the right."""
    places_px = rescale_px(pixel_grid((4, 4)).view(-1, 2), (4, 4), HW)
    centres_px = rescale_px(pixel_grid((32, 32)).view(-1, 2), (32, 32), HW)
    distance_px = (centres_px[None] - places_px[:, None] - torch.tensor([shift_px, 0])).norm(dim=2)
    return mass_maps(-0.1 * distance_px.view(16, 32, 32), HW, 0.1)


def test_the_flow_of_a_shift_has_all_mass_and_a_stray_pixel_none():
    maps = shifted_maps(30)
    query_px = torch.tensor([[100.0, 90], [160, 160], [203, 111], [0, 319]])
    stray_px = query_px + torch.tensor([[0.0, 120], [-90, 0], [100, 100], [120, 0]])
    good = flow_mass(maps, (4, 4), query_px, query_px + torch.tensor([30, 0]), HW, HW)
    stray = flow_mass(maps, (4, 4), query_px, stray_px, HW, HW)
    assert good.min() > 0.95
    assert stray.max() < 0.01


def test_one_query_place_is_enough():
    maps = mass_maps(planted((16, 16))[None], HW, 1.0)
    at = torch.tensor([[164.5, 164.5]])
    assert flow_mass(maps, (1, 1), torch.tensor([[159.5, 159.5]]), at, HW, HW).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("hw", [(1, 1), (1, 5000), (7, 2)])
def test_tiny_and_narrow_images(hw: tuple[int, int]):
    values = point_mass(torch.zeros(1, 32, 32), torch.tensor([[0.0, 0.0]]), hw, 1.0)
    assert 0 < values.item() <= 1
