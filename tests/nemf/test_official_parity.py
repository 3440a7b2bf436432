"""The authors' network and search, number for number, on tensors that their own code computed."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from official_nemf import official_shapes, official_state_dict

from nemf.checkpoints import from_official_state_dict
from nemf.coordinates import norm_to_px, pixel_grid, px_to_norm
from nemf.model.network import Encoded, NeMF, initial_field
from nemf.search.patchmatch import patchmatch
from nemf.search.refine import refine

Golden = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def golden(shared: Path) -> Golden:
    with np.load(shared / "golden" / "nemf_official.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(array)) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def model(golden: Golden) -> NeMF:
    state_dict = official_state_dict(official_shapes(), int(golden["weights_seed"]))
    return from_official_state_dict(state_dict).requires_grad_(False)


@pytest.fixture(scope="module")
def encoded(golden: Golden, model: NeMF) -> Encoded:
    source, target = (
        ((golden[name].permute(2, 0, 1) / 255 - model.backbone.mean) / model.backbone.std)[None]
        for name in ("source_rgb", "target_rgb")
    )
    with torch.no_grad():
        return model.encode(source, target)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Within a fraction of the greatest value."""
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def optimise(
    score: partial, field_norm: torch.Tensor, xy_px: torch.Tensor, target_hw: torch.Tensor, source_hw: torch.Tensor
) -> torch.Tensor:
    """The coordinate optimisation as published, from a field sampled at target points; (2, k) source pixels."""
    target_xy_norm = px_to_norm(xy_px.T, tuple(target_hw.tolist()))[None]
    start = F.grid_sample(field_norm, target_xy_norm[None], align_corners=True)[0].permute(1, 2, 0)
    actual = refine(partial(score, target_xy_norm=target_xy_norm), start)
    return norm_to_px(actual[0], tuple(source_hw.tolist())).T


def test_encoding(golden: Golden, encoded: Encoded):
    for level, features in enumerate(encoded.features_source):
        channels, height, width = features.shape[1:]
        actual = features[0, :: max(1, channels // 16), :: max(1, height // 8), :: max(1, width // 8)]
        assert_close(actual, golden[f"feature_{level}_slice"], 1e-4)
    assert_close(encoded.correlation[0, ::8, ::8, ::8], golden["correlation_slice"], 1e-4)
    assert_close(encoded.refined[0, ::8, ::8, ::8], golden["refined_slice"], 1e-4)
    assert_close(encoded.refined_mean[0], golden["refined_mean"], 1e-4)
    flow_cells = (encoded.coarse_flow[0] + 1) / 2 * 15 - pixel_grid((16, 16)).permute(2, 0, 1)
    assert_close(flow_cells, golden["flow_16"], 1e-4)
    assert_close(encoded.cost_features[0, ::8, ::4, ::4, ::4, ::4], golden["cost_feature_slice"], 1e-4)


def test_logits(golden: Golden, model: NeMF, encoded: Encoded):
    logits = model.score(encoded, golden["query_source_xy"][None], golden["query_target_xy"][None])
    assert_close(logits[0], golden["query_logits"], 1e-3)


def test_coordinate_optimisation(golden: Golden, model: NeMF, encoded: Encoded):
    score = partial(model.score, encoded)
    field_norm = initial_field(encoded, (16, 16))
    actual = optimise(score, field_norm, golden["target_keypoints_px"], golden["target_hw"], golden["source_hw"])
    assert (actual - golden["refined_keypoints_from_softargmax_px"]).abs().max() <= 0.01


def test_patchmatch(golden: Golden, model: NeMF, encoded: Encoded):
    score = partial(model.score, encoded)
    hw = tuple(golden["pm_hw"].tolist())
    noise = golden["pm_noise"]
    field_norm = patchmatch(score, initial_field(encoded, hw), iterations=len(noise), noise=noise)
    apart = (field_norm[0] - golden["pm_field_norm"]).abs().amax(dim=0) > 1e-3
    assert apart.sum() <= 4  # two scores may tie to rounding
    actual = optimise(score, field_norm, golden["pm_target_keypoints_px"], golden["pm_hw"], golden["pm_hw"])
    assert (actual - golden["pm_keypoints_px"]).abs().max() <= 0.01
