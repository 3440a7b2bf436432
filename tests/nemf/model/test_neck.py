import torch
from torch import nn

from nemf.model.neck import Neck


def test_at_first_it_is_the_sum_of_all_projections():
    neck = Neck([5, 5, 5], channels=5, n_blocks=4)
    for take in neck.inputs:
        nn.init.dirac_(take.weight)
        nn.init.zeros_(take.bias)
    maps = [torch.full((2, 5, 16, 12), 100.0), torch.full((2, 5, 8, 6), -10.0), torch.full((2, 5, 4, 3), 1.0)]

    (actual,) = neck(maps)

    assert torch.equal(actual, torch.full((2, 5, 16, 12), 91.0))


def test_the_deepest_map_is_stretched_to_the_corners_of_the_shallowest():
    torch.manual_seed(0)
    neck = Neck([3, 7], channels=6, n_blocks=1)
    shallow, deep = torch.randn(1, 3, 9, 13), torch.randn(1, 7, 3, 4)

    (actual,) = neck([shallow, deep])

    assert actual.shape == (1, 6, 9, 13)
    at_corners = neck.inputs[0](shallow)[..., ::4, ::4] + neck.inputs[1](deep)
    assert torch.allclose(actual[..., ::4, ::4], at_corners, atol=1e-5)


def test_three_blocks_see_seven_cells_far():
    """1 + 2 + 4, the dilations."""
    torch.manual_seed(0)
    neck = Neck([32], channels=32, n_blocks=3)
    for block in neck.context:
        nn.init.normal_(block.expand.weight)
    features = torch.randn(1, 32, 21, 21)
    changed = features.clone()
    changed[:, :, 10, 10] += 1

    with torch.no_grad():
        differs = (neck([features])[0] != neck([changed])[0]).any(dim=1)[0]

    near = torch.zeros(21, 21, dtype=torch.bool)
    near[3:18, 3:18] = True
    assert torch.equal(differs, near)
