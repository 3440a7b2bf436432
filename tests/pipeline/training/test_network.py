"""The network that a training starts from."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import TINY
from tiny_pmnc import TINY_PMNC

from nemf import checkpoints
from nemf.lpmflow.network import LPMFlow
from nemf.lpmflow.presets import PRESETS as LPMFLOW_PRESETS
from nemf.lpmflow.presets import small as lpmflow_small
from nemf.model.backbone import build_backbone
from nemf.model.build import build
from nemf.model.network import NeMF
from nemf.model.presets import PRESETS, NeMFConfig, with_cost_features
from nemf.pmnc.network import build as build_pmnc
from pipeline.training.config import TrainingConfig
from pipeline.training.network import initial_network, search_settings


@pytest.fixture
def start(tmp_path: Path) -> str:
    """A checkpoint folder."""
    torch.manual_seed(0)
    checkpoints.save(tmp_path / "start", build(TINY), TINY, search={"patchmatch_steps": 3})
    return str(tmp_path / "start")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Weights of a preset's backbone, in a file that names other maps than the preset."""
    monkeypatch.setitem(PRESETS, "tiny", lambda: TINY)
    torch.manual_seed(1)
    every_map = replace(TINY.backbone_config, out_indices=(0, 1, 2, 3))
    network = build_backbone(TINY.backbone, every_map).network
    file = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), file)
    described = {"model": TINY.backbone.removeprefix("timm/"), **asdict(every_map)}
    file.with_suffix(".json").write_text(json.dumps(described))
    return str(file)


def _same(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    tensors = theirs.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in ours.state_dict().items())


def _gives_maps(model: NeMF, config: NeMFConfig) -> bool:
    with torch.no_grad():
        encoded = model.encode(*torch.zeros(2, 1, 3, config.image_size, config.image_size))
    return bool(encoded.cost_features.isfinite().all())


def test_a_preset_starts_with_the_backbone_of_the_file_and_the_maps_of_its_own(weights: str):
    model, config = initial_network("tiny", weights, None, None, seed=0)
    again, _ = initial_network("tiny", weights, None, None, seed=0)
    other, _ = initial_network("tiny", weights, None, None, seed=1)

    assert config == TINY
    assert _gives_maps(model, config)
    assert _same(model, again)
    assert _same(model.backbone, other.backbone)
    assert not _same(model.field, other.field)
    assert not model.cost_encoder.aggregator.proj.weight.any()


def test_a_checkpoint_of_another_kind_gives_its_backbone_and_neck(start: str, tmp_path: Path):
    checkpoint = checkpoints.load(start)

    same, config = initial_network(start, None, None, None, seed=5)
    raw, raw_config = initial_network(start, None, "raw", None, seed=5)
    checkpoints.save(tmp_path / "raw", raw, raw_config)
    of_its_kind, _ = initial_network(str(tmp_path / "raw"), None, "raw", None, seed=6)

    assert config == TINY
    assert _same(same, checkpoint)
    assert _same(of_its_kind, raw)
    assert raw_config == with_cost_features(TINY, "raw")
    assert _gives_maps(raw, raw_config)
    assert _same(raw.backbone, checkpoint.backbone)
    assert _same(raw.neck, checkpoint.neck)
    assert not _same(raw.field.blocks, checkpoint.field.blocks)


def test_a_checkpoint_gives_its_backbone_and_neck_to_a_network_for_larger_images(start: str):
    checkpoint = checkpoints.load(start)

    larger, config = initial_network(start, None, None, 2 * TINY.image_size, seed=5)

    assert config == replace(TINY, image_size=2 * TINY.image_size, feature_size=2 * TINY.feature_size)
    assert _gives_maps(larger, config)
    assert _same(larger.backbone, checkpoint.backbone)
    assert _same(larger.neck, checkpoint.neck)


def test_the_search_is_the_one_given_or_that_of_the_start(start: str):
    def settings(start: str, *search: str) -> dict[str, object]:
        return search_settings(TrainingConfig(pairs=("p",), out="out", start=start, search=search))

    assert settings(start) == {"patchmatch_steps": 3}
    assert settings(start, "refine_steps=5", "grid_strides=4,1") == {"refine_steps": 5, "grid_strides": (4, 1)}
    assert settings("nemf-small") == {}
    with pytest.raises(ValueError, match="--search: option 'speed' is unknown"):
        settings(start, "speed=3")


def test_an_lpmflow_preset_starts_at_its_features(weights: str, monkeypatch: pytest.MonkeyPatch):
    sizes = {"cells": 4, "dim": 32, "depth": 1, "heads": 2, "context_channels": 8, "windows": (8,)}
    tiny = replace(lpmflow_small(), backbone=TINY.backbone, backbone_config=TINY.backbone_config, **sizes)
    monkeypatch.setitem(LPMFLOW_PRESETS, "tiny-lpmflow", lambda: tiny)
    model, config = initial_network("tiny-lpmflow", weights, None, None, seed=0)
    assert isinstance(model, LPMFlow)
    assert config == tiny
    assert not model.integration.conv2.weight.any()
    assert _same(model.backbone.backbone, initial_network("tiny", weights, None, None, seed=1)[0].backbone)


def test_settings_of_nemf_are_refused_for_another_network(tmp_path: Path):
    with pytest.raises(ValueError, match="--start lpmflow-small is an LPMFlow network, whose images have one size"):
        initial_network("lpmflow-small", None, None, 320, seed=0)
    config = TrainingConfig(pairs=("a",), out=str(tmp_path), start="lpmflow-small", search=("patchmatch_steps=2",))
    with pytest.raises(ValueError, match="--start lpmflow-small is an LPMFlow network, which has no search"):
        search_settings(config)


def test_a_pmnc_network_of_another_image_size_keeps_its_weights(tmp_path: Path):
    torch.manual_seed(0)
    checkpoints.save(tmp_path, build_pmnc(TINY_PMNC), TINY_PMNC, search={"iterations": 3})

    same, config = initial_network(str(tmp_path), None, None, None, seed=0)
    larger, larger_config = initial_network(str(tmp_path), None, None, 128, seed=0)

    assert config == TINY_PMNC
    assert larger_config == replace(TINY_PMNC, image_size=128, feature_size=16)
    assert (larger.image_size, larger.cells_hw) == (128, (16, 16))
    assert _same(larger, same)
    settings = TrainingConfig(pairs=("p",), out="out", start=str(tmp_path))
    assert search_settings(settings) == {"iterations": 3}
    assert search_settings(replace(settings, search=("propagation=absolute",))) == {"propagation": "absolute"}
    with pytest.raises(ValueError, match="is no NeMF network"):
        initial_network(str(tmp_path), None, "raw", None, seed=0)
