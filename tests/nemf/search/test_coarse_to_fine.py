import pytest
import torch
from affine_search import rough, search

from nemf.coordinates import pixel_grid, px_to_norm
from nemf.search.coarse_to_fine import pixel_grids, sample_coarse


def test_coarse_grids_lie_on_the_edges_of_the_image():
    levels = pixel_grids([(9, 5), (3, 3)], [None, None], (4, 1), 2, torch.device("cpu"))
    assert [pixels.sizes for pixels in levels] == [[(3, 2), (2, 2)], [(9, 5), (3, 3)]]  # both edges, however narrow
    # a ramp on the coarse grid is the ramp on the fine one
    coarse = [px_to_norm(pixel_grid(hw), hw).permute(2, 0, 1) for hw in levels[0].sizes]
    assert torch.allclose(sample_coarse(coarse, levels[1]), levels[1].xy_norm(), atol=1e-6)
    assert pixel_grids([(1, 9)], [None], (4,), 2, torch.device("cpu"))[0].sizes == [(1, 3)]


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_a_coarse_grid_has_what_the_next_one_reads(iterations: int):
    hw, points_px = (60, 80), torch.tensor([[3.0, 4.5], [6.0, 9.0]])
    dense = pixel_grids([hw], [None], (4, 1), iterations, torch.device("cpu"))
    sparse = pixel_grids([hw], [points_px], (4, 1), iterations, torch.device("cpu"))
    assert all(len(few) < len(many) for few, many in zip(sparse, dense, strict=True))
    start = [rough(dense[0].sizes[0])[0]]
    coarse = [search(pixels, start, iterations) for pixels in (dense[0], sparse[0])]
    expected, actual = (sample_coarse(fields, sparse[1]) for fields in coarse)
    assert torch.equal(actual, expected)
