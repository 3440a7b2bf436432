import math

import pytest
import torch
import torch.nn.functional as F

from nemf.model.field import Field
from nemf.model.quadrilinear import sample_quadrilinear


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def field() -> Field:
    torch.manual_seed(0)
    return (
        Field(correlation_channels=4, cost_channels=4, hidden=8, n_blocks=2, n_frequencies=3)
        .double()
        .requires_grad_(False)
    )


def test_interpolation_agrees_with_two_bilinear_samplings():
    """Over all reference axes for every query cell first, then over the query axes; points outside included."""
    volume = random(2, 3, 4, 5, 6, 7)
    reference, query = 1.3 * random(2, 9, 2, seed=1), 1.3 * random(2, 9, 2, seed=2)
    for point in range(9):
        by_query = F.grid_sample(
            volume.flatten(4).permute(0, 1, 4, 2, 3).flatten(1, 2), reference[:, point, None, None], align_corners=True
        ).view(2, 3, 6, 7)
        expected = F.grid_sample(by_query, query[:, point, None, None], align_corners=True)[..., 0, 0]
        assert torch.allclose(sample_quadrilinear(volume, reference, query)[:, point], expected)


def test_a_multilinear_volume_is_interpolated_exactly():
    axes = torch.meshgrid(*(torch.arange(4.0) for _ in range(4)), indexing="ij")
    volume = (axes[0] + 10 * axes[1] + 100 * axes[2] + 1000 * axes[3])[None, None]
    reference, query = torch.tensor([[[0.0, -1 / 3]]]), torch.tensor([[[1.0, -1.0]]])
    # reference x = 1.5, y = 1; query x = 3, y = 0
    assert sample_quadrilinear(volume, reference, query).item() == pytest.approx(1 + 15 + 0 + 3000)


def test_gradients_by_finite_differences(field: Field):
    volume = random(1, 4, 3, 3, 3, 3).requires_grad_()
    reference, query = 0.9 * random(1, 5, 2, seed=3).requires_grad_(), 0.9 * random(1, 5, 2, seed=4).requires_grad_()
    reference, query = (points.detach().requires_grad_() for points in (reference, query))
    assert torch.autograd.gradcheck(sample_quadrilinear, (volume, reference, query))

    def score(volume: torch.Tensor, reference: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        return field(volume, reference, query, positional_gradient=True)

    assert torch.autograd.gradcheck(score, (volume, reference, query))


def test_one_channel_of_correlation_is_its_own_mean_and_can_be_kept():
    torch.manual_seed(0)
    field = Field(correlation_channels=1, cost_channels=4, hidden=8, n_blocks=1, n_frequencies=3, keep_correlation=True)
    refined = torch.rand(2, 1, 9, 9)

    features = field.cost_features(field.with_mean(refined))

    assert field.embedding.conv.over_source.in_channels == 1
    assert features.shape == (2, 5, 3, 3, 3, 3)
    assert torch.equal(features[:, -1].flatten(), refined.flatten())


def test_without_positional_gradient_only_the_cost_features_pull(field: Field):
    reference, query = 0.9 * random(1, 5, 2, seed=3).requires_grad_(), 0.9 * random(1, 5, 2, seed=4)
    flat = torch.ones(1, 4, 3, 3, 3, 3, dtype=torch.float64)
    logits = {way: field(flat, reference, query, positional_gradient=way) for way in (True, False)}
    assert torch.equal(logits[True], logits[False])
    gradients = {way: torch.autograd.grad(logits[way].sum(), reference)[0] for way in (True, False)}
    assert gradients[False].abs().max() < 1e-12  # there is no slope in a flat volume
    assert gradients[True].abs().min() > 0


def test_the_encoding_by_hand(field: Field):
    """Three frequencies, 1, 256.5 and 512, of z = 2 xy + 3."""
    actual = field.encode(torch.tensor([0.25, -1.0], dtype=torch.float64))
    angles = [f * z for z in (3.5, 1.0) for f in (1, 256.5, 512)]
    expected = [*map(math.sin, angles), *map(math.cos, angles), 3.5, 1.0]
    assert actual.tolist() == pytest.approx(expected)
