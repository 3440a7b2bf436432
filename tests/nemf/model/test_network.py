from dataclasses import replace
from functools import partial

import pytest
import torch
from official_nemf import SMALL, official_shapes, official_state_dict
from tiny import TINY

from nemf.checkpoints import from_official_state_dict
from nemf.model.build import build
from nemf.model.network import Encoded, NeMF, initial_field
from nemf.model.presets import nemf_small, paper
from nemf.search.counter_rng import pair_key
from nemf.search.patchmatch import patchmatch
from nemf.search.sample import sample_field

TINY_RAW = replace(TINY, feature_size=8, embedding_channels=(), depth=0, cost_channels=4)


def images(batch: int, size: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def model() -> NeMF:
    return from_official_state_dict(official_state_dict(official_shapes(**SMALL), seed=2), 2).requires_grad_(False)


@pytest.fixture(scope="module")
def encoded(model: NeMF) -> Encoded:
    with torch.no_grad():
        return model.encode(images(2, seed=1), images(2, seed=2))


def test_shapes(encoded: Encoded):
    assert [tuple(features.shape) for features in encoded.features_source] == [
        (2, 64, 16, 16),
        (2, 128, 8, 8),
        (2, 256, 4, 4),
        (2, 512, 2, 2),
    ]
    assert encoded.correlation.shape == encoded.refined.shape == (2, 16, 16, 16)
    assert encoded.refined_mean.shape == (2, 16, 16)
    assert encoded.coarse_flow.shape == (2, 2, 4, 4)
    assert encoded.cost_features.shape == (2, 16, 4, 4, 4, 4)


def test_a_logit_depends_on_its_own_pair_of_points_only(model: NeMF, encoded: Encoded):
    source, target = points(2, 700), points(2, 700, seed=1)
    logits = model.score(encoded, source, target)
    assert torch.equal(model.score(encoded, source[:, 3:40], target[:, 3:40]), logits[:, 3:40])
    assert torch.equal(model.score(encoded, source.flip(1), target.flip(1)).flip(1), logits)


def test_the_receptive_field_gives_exactly_what_the_whole_grid_gives(model: NeMF, encoded: Encoded):
    score, hw = partial(model.score, encoded), (23, 31)
    keys = torch.tensor([pair_key(0, "a"), pair_key(0, "b")])
    points_px = torch.tensor([[[3.0, 4.5], [30.0, 0.0]], [[11.25, 22.0], [12.5, 20.0]]])
    dense = patchmatch(score, initial_field(encoded, hw), 4, pair_keys=keys)
    sparse = patchmatch(score, initial_field(encoded, hw), 4, pair_keys=keys, points_px=points_px)
    assert not torch.equal(sparse, dense)
    assert torch.equal(sample_field(sparse, points_px), sample_field(dense, points_px))


def test_no_points_have_no_logits(model: NeMF, encoded: Encoded):
    assert model.score(encoded, points(2, 0), points(2, 0)).shape == (2, 0)


def test_wrong_inputs(model: NeMF, encoded: Encoded):
    with pytest.raises(ValueError, match=r"target images must have shape \(1, 3, 64, 64\); got \(1, 3, 96, 96\)"):
        model.encode(images(1), images(1, size=96))
    with pytest.raises(ValueError, match=r"target images must have shape \(1, 3, 64, 64\); got \(2, 3, 64, 64\)"):
        model.encode(images(1), images(2))
    broken = images(1)
    broken[0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="source images must be finite"):
        model.encode(broken, images(1))
    with pytest.raises(ValueError, match=r"points of 2 encoded pairs must have shape \(2, 5, 2\); got source \(2, 5,"):
        model.score(encoded, points(2, 5), points(2, 4))


def test_the_presets():
    assert paper().backbone == "torchvision/resnet101"
    config = nemf_small()
    model = build(config).requires_grad_(False)
    with torch.no_grad():
        encoded = model.encode(images(1, 320, seed=1), images(1, 320, seed=2))
    assert [tuple(features.shape) for features in encoded.features_source] == [(1, 192, 40, 40)]
    assert encoded.cost_features.shape == (1, 5, 40, 40, 40, 40), "four refined channels and the correlation as it is"
    assert model.score(encoded, points(1, 3), points(1, 3)).isfinite().all()


def test_sizes_that_do_not_fit():
    config = nemf_small()
    config.feature_size = 16
    with pytest.raises(ValueError, match=r"feature maps must have 64, 32, 16, 8 cells a side .* got one of 40"):
        build(config)


def test_the_coarse_flow_is_the_same_in_mixed_precision():
    model = build(TINY_RAW).requires_grad_(False)
    source, target = (torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    flows = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            flows.append(model.encode_features([source], [target]).coarse_flow)
    assert torch.equal(*flows)
