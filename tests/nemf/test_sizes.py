"""The sizes of networks on other backbones, and for other images: what patch, maps and cells need."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY
from tiny_pmnc import TINY_PMNC

from nemf import checkpoints
from nemf.lpmflow.build import build as build_lpmflow
from nemf.lpmflow.presets import small as lpmflow_small
from nemf.model.build import build
from nemf.model.presets import nemf_dinov2_base, nemf_mobilenet, nemf_small, paper, with_cost_features
from nemf.pmnc.presets import PRESETS as PMNC_PRESETS
from nemf.pmnc.presets import pmnc_small
from nemf.sizes import seen_size, with_backbone, with_image_size

SMALL = {"dim": 32, "depth": 0, "heads": 2, "context_channels": 8, "windows": (), "upsampler_blocks": 0}
"""An LPMFlow network of which little is built."""


@pytest.fixture(autouse=True)
def _no_warnings_of_names_without_tags(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="nemf")


@pytest.fixture
def shallow(tmp_path: Path) -> Path:
    """A weights file of a network of three blocks, of which only the .json is read."""
    weights = tmp_path / "shallow.safetensors"
    weights.write_bytes(b"not read")
    weights.with_suffix(".json").write_text('{"create_kwargs": {"depth": 3}, "mean": [0, 0, 0], "std": [1, 1, 1]}')
    return weights


@pytest.mark.parametrize(
    ("backbone", "layers", "image_size", "cells"),
    [
        ("timm/vit_tiny_patch16_224", (1, 2), 320, 20),
        ("timm/vit_small_patch14_dinov2.lvd142m?norm=true", (1, 2), 322, 23),
        ("timm/vit_tiny_patch16_224?layers=0", (0,), 320, 20),
        ("timm/convnext_atto", (1, 2), 320, 40),
        ("timm/resnet10t", (2, 3), 320, 40),
        ("timm/resnet10t?layers=1,2,3", (1, 2, 3), 320, 40),
        ("torchvision/resnet18", (2, 3), 320, 40),
        ("timm/hiera_small_224", (1, 2), 224, 28),  # it takes no other size
    ],
)
def test_sizes_are_those_that_patch_and_maps_need(
    backbone: str, layers: tuple[int, ...], image_size: int, cells: int, shallow: Path
):
    """A preset of 320 pixels and 40 cells: of a pyramid the maps of 8 and 16 pixels a cell, of a ViT two blocks."""
    weights = shallow if "vit" in backbone else None
    of_nemf, of_pmnc = (with_backbone(preset(), backbone, weights) for preset in (nemf_mobilenet, pmnc_small))

    for config in (of_nemf, of_pmnc):
        assert config.backbone == backbone.partition("?")[0]
        assert config.backbone_config.out_indices == layers
        assert config.backbone_config.create_kwargs.get("norm", False) == ("norm" in backbone)
        assert (config.image_size, config.feature_size) == (image_size, cells)
    assert checkpoints.check_sizes(of_nemf)["neck.inputs.0.weight"].shape[0] == of_nemf.neck_channels


def test_without_a_neck_all_maps_are_brought_to_one_size(shallow: Path):
    """The published network: maps of 4 to 32 pixels a cell, so that images are a multiple of 32."""
    assert with_image_size(paper(), 300) == replace(paper(), image_size=288, feature_size=18)
    on_resnet = with_backbone(paper(), "torchvision/resnet18?layers=1,2,3,4")
    assert (on_resnet.image_size, on_resnet.feature_size) == (256, 16)
    checkpoints.check_sizes(on_resnet)
    on_vit = with_backbone(with_cost_features(paper(), "convolution"), "timm/vit_tiny_patch16_224", shallow, 250)
    assert (on_vit.image_size, on_vit.feature_size) == (256, 16)
    checkpoints.check_sizes(on_vit)


@pytest.mark.parametrize(
    ("backbone", "side", "cells"),
    [
        ("timm/vit_tiny_patch16_224", 256, 16),
        ("timm/vit_small_patch14_dinov2.lvd142m", 224, 16),  # 16 patches of 14
        ("timm/vit_base_patch32_clip_224", 512, 16),
        ("timm/convnext_atto", 256, 32),
        ("timm/hiera_small_224", 224, 28),
    ],
)
def test_lpmflow_sees_images_whose_patches_are_its_cells(backbone: str, side: int, cells: int, shallow: Path):
    config = with_backbone(replace(lpmflow_small(), **SMALL), backbone, shallow if "vit" in backbone else None)
    with torch.device("meta"):
        model = build_lpmflow(config)
        assert model.backbone.backbone(torch.zeros(1, 3, side, side))[0].shape[2] == cells
        tokens = model.tokens(torch.zeros(1, 3, model.image_size, model.image_size))
    assert (model.backbone.side, seen_size(config)) == (side, 256)
    assert tokens.shape == (1, 1 + 16**2, config.dim)


def test_maps_with_fewer_cells_than_tokens_are_read_between_them(shallow: Path):
    """CaiT takes 224 pixels only, 14 patches, so that 16 cells lie between them; neighbours are not alike."""
    torch.manual_seed(0)
    config = with_backbone(replace(lpmflow_small(), **SMALL), "timm/cait_xxs24_224", shallow)
    with torch.no_grad():
        tokens = build_lpmflow(config).tokens(torch.randn(1, 3, 512, 512))[0, 1:].unflatten(0, (16, 16))
    assert (tokens[1:] - tokens[:-1]).norm(dim=-1).min() > 1e-4


@pytest.mark.parametrize(
    ("config", "asked", "image_size", "cells"),
    [
        (nemf_small(), 256, 256, 32),
        (nemf_small(), 304, 304, 38),  # 16 pixels are enough: a neck brings its maps to one size
        (nemf_small(), 300, 304, 38),
        (nemf_dinov2_base(), 896, 896, 32),
        (nemf_dinov2_base(), 448, 448, 16),
        (nemf_dinov2_base(), 512, 518, 37),  # 37 patches, which cannot be halved
        (TINY_PMNC, 128, 128, 16),
        (TINY, 2 * TINY.image_size, 2 * TINY.image_size, 2 * TINY.feature_size),
    ],
)
def test_images_of_another_size_have_cells_of_the_same_size(config: Any, asked: int, image_size: int, cells: int):
    assert with_image_size(config, asked) == replace(config, image_size=image_size, feature_size=cells)


def test_a_network_for_larger_images_has_larger_maps():
    config = with_image_size(nemf_small(), 384)
    with torch.no_grad():
        maps = build(config).features(torch.zeros(1, 3, 384, 384))
    assert [tuple(level.shape) for level in maps] == [(1, 192, 48, 48)]
    assert with_image_size(config, 320) == nemf_small()
    for preset in PMNC_PRESETS.values():
        assert with_image_size(preset(), preset().image_size) == preset()


@pytest.mark.parametrize("size", [0, 16, 5000])
def test_a_size_out_of_range_is_refused(size: int):
    for config in (nemf_small(), pmnc_small()):
        with pytest.raises(ValueError, match=f"image_size must be 32 to 4096; got {size}"):
            with_image_size(config, size)


def test_what_a_file_says_of_the_network_holds(shallow: Path, tmp_path: Path):
    """Its number of blocks too, of which the maps are."""
    config = with_backbone(nemf_mobilenet(), "timm/vit_tiny_patch16_224", shallow)
    assert config.backbone_config.create_kwargs == {"depth": 3}
    assert config.backbone_config.out_indices == (1, 2)
    assert config.backbone_config.std == (1, 1, 1)
    with pytest.raises(FileNotFoundError):
        with_backbone(nemf_mobilenet(), "timm/vit_tiny_patch16_224", tmp_path / "lost.safetensors")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet18", "there is no backbone 'resnet18'; there are timm/MODEL and torchvision/MODEL"),
        ("timm/resnet18?window=0", "--backbone timm/resnet18.window=0: option 'window' is unknown"),
        ("timm/resnet18?layers=9", "timm/resnet18 cannot be built with .* out_indices .9"),
        ("torchvision/vit_b_16", "timm has vision transformers of any size: timm/vit_base_patch16_224"),
        ("timm/cait_xxs24_224", "cannot take images of 320 x 320 .*; choose its image_size, 224, or a network that"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(backbone: str, message: str, shallow: Path):
    with pytest.raises(ValueError, match=message) as caught:
        with_backbone(nemf_mobilenet(), backbone, shallow if "cait" in backbone else None, image_size=320)
    assert "\n" not in str(caught.value)
