from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import TINY

from nemf import checkpoints
from nemf.model.backbone import build_backbone
from nemf.model.build import build
from nemf.model.presets import PRESETS, CostFeatureKind, nemf_small, paper, with_cost_features


def images(size: int) -> torch.Tensor:
    """A source and a target image."""
    return torch.randn(2, 1, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("image_size", [128, 256])
@pytest.mark.parametrize("neck_channels", [16, 0])
@pytest.mark.parametrize(("kind", "channels"), [("raw", 1), ("convolution", 4), ("attention", 1), ("both", 4)])
def test_each_kind_of_cost_features(
    kind: CostFeatureKind, channels: int, neck_channels: int, image_size: int, tmp_path: Path
):
    """The backbone's two maps or the neck's one, of 8 or 16 pixels a cell, are brought to 16 pixels a cell."""
    n_maps = 1 if neck_channels else 2
    config = with_cost_features(replace(TINY, image_size=image_size, neck_channels=neck_channels), kind)
    model = build(config)
    checkpoints.save(tmp_path, model, config)
    loaded = checkpoints.load(tmp_path)

    with torch.no_grad():
        encoded, again = (each.encode(*images(image_size)) for each in (model, loaded))

    side = image_size // 16
    assert encoded.refined.shape == (1, n_maps * channels, side**2, side**2)
    assert encoded.cost_features.shape == (1, n_maps * channels, side, side, side, side)
    assert encoded.cost_features.isfinite().all()
    assert torch.equal(encoded.refined, encoded.correlation) == (kind in ("raw", "convolution"))
    assert torch.equal(again.cost_features, encoded.cost_features)
    assert checkpoints.read_config(tmp_path) == config


@pytest.mark.parametrize("name", ["nemf-small", "nemf-mobilenet", "nemf-mobilenet-decoder"])
def test_a_preset_comes_back_from_a_checkpoint_folder(name: str, tmp_path: Path):
    config = PRESETS[name]()
    model = build(config)
    checkpoints.save(tmp_path, model, config)
    assert checkpoints.read_config(tmp_path) == config
    loaded = checkpoints.load(tmp_path).state_dict()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_the_shipped_backbone_has_the_maps_of_the_one_it_learns_from():
    maps = [
        [level.shape for level in build_backbone(config.backbone, config.backbone_config)(images(256)[0])]
        for config in (PRESETS["nemf-small"](), PRESETS["nemf-mobilenet"]())
    ]
    assert maps[0] == maps[1]


def test_cost_features_may_have_channels_of_their_own(tmp_path: Path):
    config = replace(TINY, cost_channels=6, keep_correlation=True)
    checkpoints.save(tmp_path, build(config), config)
    loaded = checkpoints.load(tmp_path)

    with torch.no_grad():
        encoded = loaded.encode(*images(64))

    assert checkpoints.read_config(tmp_path) == config
    assert encoded.refined.shape[1] == 4
    assert encoded.cost_features.shape == (1, 7, 4, 4, 4, 4)
    assert torch.equal(encoded.cost_features[:, 6].flatten(), encoded.refined_mean.flatten())


def test_what_a_kind_leaves_out_has_no_parameters():
    def parts(kind: CostFeatureKind) -> set[str]:
        names = dict(build(with_cost_features(TINY, kind)).cost_encoder.named_parameters())
        return {name.partition(".")[0] for name in names}

    assert parts("raw") == set()
    assert parts("convolution") == {"embeddings"}
    assert parts("attention") == {"projections", "aggregator"}
    assert parts("both") == {"embeddings", "projections", "aggregator"}


def test_a_network_without_a_cost_encoder_gets_a_small_one():
    config = nemf_small()
    assert (config.embedding_channels, config.depth) == ((), 0)
    both = with_cost_features(config, "both")
    assert (both.feature_size, both.embedding_channels, both.depth) == (20, (4, 8), 1)
    assert (config.keep_correlation, both.keep_correlation) == (True, False)


@pytest.mark.parametrize("kind", ["raw", "convolution", "attention", "both"])
def test_a_network_of_a_kind_stays_as_it_is(kind: CostFeatureKind):
    """Training that goes on from its checkpoint would begin anew otherwise."""
    for config in (paper(), nemf_small(), TINY):
        of_kind = with_cost_features(config, kind)
        assert with_cost_features(of_kind, kind) == of_kind
    assert with_cost_features(paper(), "both") == paper()
