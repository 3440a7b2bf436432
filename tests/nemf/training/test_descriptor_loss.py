import math

import pytest
import torch
import torch.nn.functional as F

from nemf.coordinates import pixel_grid, px_to_norm
from nemf.training.descriptor_loss import descriptor_loss

HW = (4, 5)


def one_by_one(
    features: torch.Tensor, image: torch.Tensor, xy_norm: torch.Tensor, keypoint: torch.Tensor
) -> torch.Tensor:
    """The same match by match; values linear in the four cells around a point are read by grid_sample."""

    def read(one_map: torch.Tensor, xy: torch.Tensor) -> torch.Tensor:
        return F.grid_sample(one_map[None], xy.view(1, 1, 1, 2), align_corners=True)[0, :, 0, 0]

    losses = []
    for a in range(len(image)):
        for b in range(len(image)):
            if keypoint[a] == keypoint[b] and image[a] != image[b]:
                own, other = (F.normalize(features[image[point]], dim=0) for point in (a, b))
                cosine = torch.einsum("c,chw->hw", F.normalize(read(own, xy_norm[a]), dim=0), other)
                log_likelihood = F.log_softmax(cosine.flatten() / 0.05, dim=0).view(1, *cosine.shape)
                losses.append(-read(log_likelihood, xy_norm[b])[0])
    return torch.stack(losses).mean()


def test_the_loss_is_the_mean_over_all_matches_one_by_one():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(4, 6, *HW, generator=generator).requires_grad_()
    image = torch.tensor([0, 0, 1, 1, 1, 2, 2, 3])
    keypoint = torch.tensor([0, 1, 0, 1, 2, 0, 9, 3])  # 0 in three images, 1 in two, the others in one
    xy_norm = torch.rand(8, 2, generator=generator) * 2 - 1
    xy_norm[0], xy_norm[2] = torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 1.0])

    loss = descriptor_loss(features, image, xy_norm, keypoint, torch.ones(len(keypoint)))
    expected = one_by_one(features, image, xy_norm, keypoint)

    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    gradients = [torch.autograd.grad(value, features)[0] for value in (loss, expected)]
    assert torch.allclose(*gradients, atol=1e-4)
    assert not gradients[0][3].any()


def planted(move: int) -> float:
    """The loss of two images whose cells have a vector each, those of the second as many cells further on."""
    n_cells = HW[0] * HW[1]
    own = torch.eye(n_cells).view(n_cells, *HW)
    features = torch.stack([own, own.flatten(1).roll(move, dims=1).view_as(own)])
    xy_norm = px_to_norm(pixel_grid(HW).view(-1, 2), HW)
    image, keypoint = torch.tensor([0, 1]).repeat_interleave(n_cells), torch.arange(n_cells).repeat(2)
    return descriptor_loss(features, image, xy_norm.repeat(2, 1), keypoint, torch.ones(2 * n_cells)).item()


def test_it_is_least_where_descriptors_are_planted():
    """Cosines of 1 and 0, over a temperature of 0.05, are logits of 20 and 0."""
    assert planted(0) < 1e-5
    assert planted(1) == pytest.approx(20, rel=1e-3)


def test_maps_that_tell_nothing_leave_all_cells_alike():
    xy_norm = torch.tensor([[0.3, -0.8], [0.1, 0.9]])
    features = torch.ones(2, 3, *HW)
    loss = descriptor_loss(features, torch.tensor([0, 1]), xy_norm, torch.tensor([7, 7]), torch.ones(2))
    assert loss.item() == pytest.approx(math.log(20), rel=1e-5)


def test_a_match_is_as_sure_as_the_lesser_of_its_points():
    """Two matches of 20 cells that say nothing: whether right or wrong, each has the likelihood 1/20; then one of cells
    that are told apart, which is right with probability 1/2."""
    xy_norm = torch.tensor([[0.3, -0.8], [0.1, 0.9]])
    doubt = torch.tensor([0.5, 1.0])
    alike = descriptor_loss(torch.ones(2, 3, *HW), torch.tensor([0, 1]), xy_norm, torch.tensor([7, 7]), doubt)
    assert alike.item() == pytest.approx(math.log(20), rel=1e-5)
    n_cells = HW[0] * HW[1]
    own = torch.eye(n_cells).view(1, n_cells, *HW).repeat(2, 1, 1, 1)
    centre = px_to_norm(torch.tensor([[1.0, 1.0]]), HW).repeat(2, 1)
    told = descriptor_loss(own, torch.tensor([0, 1]), centre, torch.tensor([7, 7]), doubt)
    assert told.item() == pytest.approx(-math.log(0.5 + 0.5 / n_cells), rel=1e-4)
