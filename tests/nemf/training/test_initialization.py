from dataclasses import replace
from typing import Any

import torch
from tiny import TINY

from nemf.coordinates import pixel_grid, px_to_norm
from nemf.model.build import build
from nemf.model.network import Encoded
from nemf.model.quadrilinear import sample_quadrilinear
from nemf.training.descriptor_loss import TEMPERATURE
from nemf.training.initialization import initialize_at_correlation

CENTRES = px_to_norm(pixel_grid((4, 4)), (4, 4)).permute(2, 0, 1)
MIRRORED = CENTRES * torch.tensor([-1.0, 1.0]).view(2, 1, 1)
"""The coarse flow of an image and its mirror image."""


WITHOUT_CONVOLUTION: dict[str, Any] = {"embedding_channels": ()}
WITHOUT_ATTENTION: dict[str, Any] = {"depth": 0}


def encoded(without: dict[str, Any], *, started: bool) -> Encoded:
    """Random vectors at the cells of the source, and the mirrored maps as the target's."""
    torch.manual_seed(0)
    model = build(replace(TINY, neck_channels=0, **without))
    if started:
        initialize_at_correlation(model)
    shallow, deep = torch.randn(1, 128, 4, 4), torch.randn(1, 256, 4, 4)
    source = [torch.nn.functional.interpolate(shallow, size=8), deep]
    with torch.no_grad():
        return model.encode_features(source, [level.flip(3) for level in source])


def error_cells(flow: torch.Tensor) -> float:
    """The mean distance from the planted flow, in cells."""
    return (1.5 * (flow[0] - MIRRORED)).norm(dim=0).mean().item()


def test_the_coarse_flow_finds_a_planted_correlation_at_once():
    for without in ({}, WITHOUT_CONVOLUTION, WITHOUT_ATTENTION, WITHOUT_CONVOLUTION | WITHOUT_ATTENTION):
        encoded_pair = encoded(without, started=True)
        assert torch.equal(encoded_pair.refined, encoded_pair.correlation)
        assert error_cells(encoded_pair.coarse_flow) < 0.02, without


def test_random_weights_alone_do_not():
    assert error_cells(encoded(WITHOUT_ATTENTION, started=False).coarse_flow) > 0.5
    assert error_cells(encoded({}, started=False).coarse_flow) > 1


def test_a_field_that_keeps_the_correlation_scores_by_it_alone_at_first():
    torch.manual_seed(0)
    model = build(replace(TINY, keep_correlation=True))
    initialize_at_correlation(model)
    with torch.no_grad():
        encoded_pair = model.encode(torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64))
        source, target = 2 * torch.rand(2, 1, 200, 2) - 1
        logits = model.score(encoded_pair, source, target)

    volume = encoded_pair.refined_mean.unflatten(2, (4, 4)).unflatten(1, (4, 4))[:, None]
    correlation = sample_quadrilinear(volume, source, target)[..., 0]
    assert correlation.std() > 0.01
    torch.testing.assert_close(logits, (correlation - 0.5) / TEMPERATURE, atol=1e-4, rtol=0)


def test_all_weights_of_a_field_that_keeps_the_correlation_learn():
    torch.manual_seed(0)
    model = build(replace(TINY, keep_correlation=True))
    initialize_at_correlation(model)
    optimiser = torch.optim.SGD(model.field.parameters(), lr=0.01)
    with torch.no_grad():
        encoded_pair = model.encode(torch.randn(1, 3, 64, 64), torch.randn(1, 3, 64, 64))
    before = {name: weight.detach().clone() for name, weight in model.field.named_parameters()}
    for _ in range(2):  # the output's weights are 0 in the first
        features = model.field.cost_features(encoded_pair.with_mean)
        source, target = 2 * torch.rand(2, 1, 200, 2) - 1
        optimiser.zero_grad()
        model.field(features, source, target, positional_gradient=False).square().mean().backward()
        optimiser.step()
    assert [name for name, weight in model.field.named_parameters() if torch.equal(weight, before[name])] == []
