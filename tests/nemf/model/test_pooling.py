import torch

from nemf.model.pooling import generalised_mean


def test_the_cube_root_of_the_mean_cube():
    features = torch.tensor([[[[2.0, 0.0], [0.0, -5.0]], [[3.0, 3.0], [3.0, 3.0]]]])
    assert torch.allclose(generalised_mean(features), torch.tensor([[2.0 ** (1 / 3), 3.0]]))
