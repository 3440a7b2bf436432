"""Tokens of images: the published network's own ViT, and the maps of any backbone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nemf.lpmflow.presets import LPMFlowConfig, paper, small
from nemf.lpmflow.tokens import MapTokens, VisionTransformer, build_tokens, load_vision_transformer


def _vit(cells: int = 4) -> LPMFlowConfig:
    kwargs = {"depth": 1, "heads": 2, "position_cells": 4}
    return replace(paper(), cells=cells, dim=16, backbone_config=replace(paper().backbone_config, create_kwargs=kwargs))


def test_weights_of_a_vit_are_found_behind_a_prefix(tmp_path: Path):
    """As iBOT's teacher has them: below module.backbone., with a head and a token for masked patches."""
    torch.manual_seed(0)
    trained = build_tokens(_vit())
    tensors = {f"module.backbone.{name}": tensor for name, tensor in trained.state_dict().items()}
    extra = {"module.backbone.masked_embed": torch.zeros(1, 16), "module.head.last.weight": torch.zeros(3)}
    file = tmp_path / "ibot.safetensors"
    save_file(tensors | extra, file)
    loaded = build_tokens(_vit())
    load_vision_transformer(loaded, file)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in trained.state_dict().items())
    del tensors["module.backbone.norm.bias"]
    save_file(tensors, file)
    with pytest.raises(ValueError, match=r"do not fit lpmflow/vit .*\n  missing: norm\.bias"):
        load_vision_transformer(loaded, file)
    with pytest.raises(ValueError, match="no library loads the weights of lpmflow/vit"):
        load_vision_transformer(loaded, None)


def test_weights_as_timm_publishes_them(shared: Path):
    kwargs = {"depth": 12, "heads": 3, "position_cells": 14}
    config = replace(paper(), dim=192, backbone_config=replace(paper().backbone_config, create_kwargs=kwargs))
    tokens = build_tokens(config)
    load_vision_transformer(tokens, shared / "weights" / "vit_tiny_patch16_224.safetensors")
    with torch.no_grad():
        assert tokens(torch.zeros(1, 3, 256, 256)).shape == (1, 257, 192)


def test_positions_at_another_number_of_cells():
    """As many cells as learned: as they are. More: still the token of the image first, and smooth ones stay smooth."""
    same, finer = build_tokens(_vit(4)), build_tokens(_vit(8))
    assert isinstance(same, VisionTransformer)
    assert isinstance(finer, VisionTransformer)
    assert same._positions() is same.pos_embed
    with torch.no_grad():
        finer.pos_embed[0, 1:] = torch.arange(16.0).div(4, rounding_mode="floor")[:, None]
        positions = finer._positions()
    assert torch.equal(positions[:, 0], finer.pos_embed[:, 0])
    rows = positions[0, 1:, 0].view(8, 8)
    assert (rows.diff(dim=0) >= 0).all()
    torch.testing.assert_close(rows, rows[:, :1].expand(8, 8))


def test_the_token_of_an_image_is_the_mean_of_its_cells():
    torch.manual_seed(0)
    config = replace(small(), backbone="timm/resnet10t", cells=4, dim=16)
    config = replace(config, backbone_config=replace(config.backbone_config, create_kwargs={}))
    tokens = build_tokens(config)
    assert isinstance(tokens, MapTokens)
    with torch.no_grad():
        made = tokens(torch.randn(1, 3, 64, 64))
    assert made.shape == (1, 17, 16)
    torch.testing.assert_close(made[0, 0], made[0, 1:].mean(dim=0))
