import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from nemf.coordinates import norm_to_px, pixel_grid, px_to_norm, rescale_px


def test_normalised_coordinates_by_hand():
    xy_px = torch.tensor([[0.0, 0.0], [4.0, 2.0], [2.0, 1.0], [5.0, -1.0]])
    expected = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0], [1.5, -2.0]])
    assert torch.equal(px_to_norm(xy_px, (3, 5)), expected)
    assert torch.equal(norm_to_px(expected, (3, 5)), xy_px)


def test_an_axis_of_one_pixel_is_at_zero():
    xy_px = torch.tensor([[0.0, 0.0], [0.3, 3.0]])
    assert px_to_norm(xy_px, (4, 1)).tolist() == [[0.0, -1.0], [0.0, 1.0]]
    assert norm_to_px(torch.tensor([[0.0, 1.0]]), (4, 1)).tolist() == [[0.0, 3.0]]


def test_rescaling_maps_areas_onto_areas():
    # (w, h) = (10, 4) to (5, 8): x halves, y doubles, corners of the picture at -1/2 stay corners
    xy_px = torch.tensor([[0.0, 0.0], [9.5, 3.5], [-0.5, -0.5]])
    expected = torch.tensor([[-0.25, 0.5], [4.5, 7.5], [-0.5, -0.5]])
    assert torch.equal(rescale_px(xy_px, (4, 10), (8, 5)), expected)


sizes = st.tuples(st.integers(1, 5000), st.integers(1, 5000))


@settings(deadline=None, derandomize=True)
@given(sizes, sizes, st.floats(-100, 6000), st.floats(-100, 6000))
def test_conversions_have_inverses(from_hw: tuple[int, int], to_hw: tuple[int, int], x: float, y: float):
    xy_px = torch.tensor([[x, y]], dtype=torch.float64)
    there_and_back = rescale_px(rescale_px(xy_px, from_hw, to_hw), to_hw, from_hw)
    assert torch.allclose(there_and_back, xy_px, atol=1e-6)
    if min(from_hw) > 1:
        assert torch.allclose(norm_to_px(px_to_norm(xy_px, from_hw), from_hw), xy_px, atol=1e-6)


def test_pillow_and_torch_resize_by_the_same_rule():
    """A ramp in x stays the ramp of where its pixels came from, away from the borders."""
    ramp = torch.arange(64, dtype=torch.float32).expand(8, 64).contiguous()
    came_from = rescale_px(pixel_grid((8, 32)), (8, 32), (8, 64))[..., 0]
    pillow = np.asarray(Image.fromarray(ramp.numpy()).resize((32, 8), Image.Resampling.BILINEAR))
    interpolated = F.interpolate(ramp[None, None], (8, 32), mode="bilinear", align_corners=False)[0, 0]
    assert torch.allclose(torch.from_numpy(pillow.copy())[:, 2:-2], came_from[:, 2:-2], atol=1e-4)
    assert torch.allclose(interpolated[:, 2:-2], came_from[:, 2:-2], atol=1e-4)


def test_pixel_grid_is_x_before_y():
    grid = pixel_grid((2, 3))
    assert grid.shape == (2, 3, 2)
    assert grid[1, 2].tolist() == [2.0, 1.0]
