from dataclasses import replace
from typing import Any

import torch
from tiny import TINY

from nemf.coordinates import pixel_grid, px_to_norm
from nemf.model.network import Encoded
from nemf.model.presets import build
from nemf.training.start import start_at_correlation

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
        start_at_correlation(model)
    shallow, deep = torch.randn(1, 128, 4, 4), torch.randn(1, 256, 4, 4)
    source = [torch.nn.functional.interpolate(shallow, size=8), deep]
    with torch.no_grad():
        return model.encode_features(source, [level.flip(3) for level in source])


def error_cells(flow: torch.Tensor) -> float:
    """The mean distance from the planted flow, in cells."""
    return (1.5 * (flow[0] - MIRRORED)).norm(dim=0).mean().item()


def test_the_coarse_flow_finds_a_planted_correlation_at_once():
    for without in ({}, WITHOUT_CONVOLUTION, WITHOUT_ATTENTION, WITHOUT_CONVOLUTION | WITHOUT_ATTENTION):
        found = encoded(without, started=True)
        assert torch.equal(found.refined, found.correlation)
        assert error_cells(found.coarse_flow) < 0.02, without


def test_random_weights_alone_do_not():
    assert error_cells(encoded(WITHOUT_ATTENTION, started=False).coarse_flow) > 0.5
    assert error_cells(encoded({}, started=False).coarse_flow) > 1
