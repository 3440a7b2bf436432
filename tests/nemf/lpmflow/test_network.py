"""The whole network: shapes, numbers, and images that it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from official_lpmflow import SMALL, official_shapes, official_state_dict

from nemf.checkpoints import from_official_state_dict
from nemf.lpmflow.build import build
from nemf.lpmflow.network import LPMFlow
from nemf.lpmflow.presets import LPMFlowConfig, paper, small


@pytest.fixture(scope="module")
def model() -> LPMFlow:
    model = from_official_state_dict(official_state_dict(official_shapes(**SMALL), seed=2))
    assert isinstance(model, LPMFlow)
    return model.requires_grad_(False)


def _images(side: int, n: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    values = np.random.Generator(np.random.PCG64(5)).standard_normal((2, n, 3, side, side), np.float32)
    source, target = torch.from_numpy(values)
    return source, target


def test_shapes(model: LPMFlow):
    encoded = model.encode(*_images(64, n=2))
    assert encoded.backbone_source.shape == encoded.encoder_source.shape == (2, 17, 32)
    assert encoded.correlation_22.shape == (2, 64, 64)
    assert [flow.shape for flow in [*encoded.flows, encoded.flow]] == [(2, 2, 32, 32)] * 5
    sums = encoded.correlation_22.sum(dim=2)
    assert ((sums > 0) & (sums < 4)).all()  # 4 heads; a part goes to the target image's own token


def test_numbers_stay_as_they_are(model: LPMFlow):
    """Computed by this network when it agreed with the published one on the tensors of test_official_parity_lpmflow."""
    encoded = model.encode(*_images(64))
    torch.testing.assert_close(encoded.flow[0, :, ::16, ::16].flatten(), torch.tensor(GOLDEN_FLOW), atol=1e-3, rtol=0)
    corner = encoded.correlation_22[0, ::32, ::32].flatten()
    torch.testing.assert_close(corner, torch.tensor(GOLDEN_CORRELATION), atol=1e-6, rtol=0)


GOLDEN_FLOW = [-38.37, -9.7557, 28.2827, 27.9286, 64.0116, 93.8954, 87.6873, 113.2998]
GOLDEN_CORRELATION = [0.0319055, 0.0978033, 0.0410966, 0.052281]


def test_images_are_resized_to_the_cells(model: LPMFlow):
    """Twice the pixels: bilinear at half the size is the mean of 2 x 2."""
    source, target = _images(64)
    twice = [image.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) for image in (source, target)]
    torch.testing.assert_close(model.encode(*twice).flow, model.encode(source, target).flow, atol=1e-3, rtol=0)


def test_source_and_target_are_no_equals(model: LPMFlow):
    source, target = _images(64)
    there, back = model.encode(source, target), model.encode(target, source)
    assert torch.equal(there.backbone_source, back.backbone_target)
    assert not torch.allclose(there.correlation_22, back.correlation_22.transpose(1, 2), atol=1e-3)


def test_images_that_cannot_be_encoded(model: LPMFlow):
    source, target = _images(64)
    with pytest.raises(ValueError, match=r"target images must have shape \(1, 3, H, W\), .*; got \(2, 3, 64, 64\)"):
        model.encode(source, target.repeat(2, 1, 1, 1))
    with pytest.raises(ValueError, match=r"source images must have shape .*; got \(1, 1, 64, 64\)"):
        model.encode(source[:, :1], target)
    target[0, 1, 5, 5] = torch.nan
    with pytest.raises(ValueError, match="target images must be finite; got NaN or infinity"):
        model.encode(source, target)


def test_parameters_of_the_paper():
    """As published without 64 coordinates, 197,376 that training alone adds, and those that nothing reads."""
    with torch.device("meta"):
        model = build(paper())
    assert sum(parameter.numel() for parameter in model.parameters()) == 179_136_194 - 64 - 197_376 - 2_969_088
    assert (model.image_size, model.flow_side) == (512, 128)


def test_the_small_network_has_answers_of_the_same_shapes():
    torch.manual_seed(0)
    model = build(small()).requires_grad_(False)
    encoded = model.encode(*_images(128))
    assert encoded.correlation_22.shape == (1, 1024, 1024)
    assert encoded.flow.shape == (1, 2, 128, 128)


def _tiny(**changes: object) -> LPMFlowConfig:
    config = paper()
    kwargs = {"depth": 1, "heads": 1, "position_cells": 3}
    backbone_config = replace(config.backbone_config, create_kwargs=kwargs)
    sizes = {"cells": 4, "dim": 16, "depth": 1, "heads": 2, "context_channels": 8}
    return replace(config, backbone_config=backbone_config, **sizes | changes)


@pytest.mark.parametrize("changes", [{"windows": ()}, {"depth": 0}, {"upsampler_blocks": 0}, {"windows": (8,)}])
def test_modules_may_be_left_out(changes: dict[str, object]):
    encoded = build(_tiny(**changes)).encode(*_images(64))
    assert encoded.flow.shape == (1, 2, 32, 32)
    if changes.get("windows") == ():
        assert encoded.flow is encoded.flows[3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 15}, "dim 15 must be divisible by the number of heads, 2"),
        ({"context_channels": 7}, r"context_channels \+ 8 must be divisible by the number of heads, 2; got 7"),
        ({"windows": (16, 5)}, "windows must divide the flow's 32 cells a side; got 5"),
        ({"cells": 3}, "cells must be a multiple of 2; got 3"),
        ({"cells": 34}, "cells must be at most 32"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        build(_tiny(**changes))
