import copy

import pytest
import torch
from torch import nn

from nemf.model.backbone import Backbone, build_backbone
from nemf.model.backbone_config import BackboneConfig
from nemf.training.lora import add_lora, merged
from nemf.training.rng import generator_of

SMALL = {"depth": 3, "embed_dim": 24, "num_heads": 2}
IMAGE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
VITS = ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "eva02_tiny_patch14_224", "beit_base_patch16_224"]


def small(name: str) -> Backbone:
    torch.manual_seed(0)
    size = {"img_size": 64} if name.startswith("beit") else {}
    config = BackboneConfig(create_kwargs=SMALL | size, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    backbone = build_backbone(f"timm/{name}", config)
    for key, parameter in backbone.named_parameters():
        if "gamma" in key:  # scales of residual branches, near 0 before training
            nn.init.ones_(parameter)
    return backbone


@pytest.mark.parametrize("name", VITS)
def test_updates_of_every_familys_attention_reach_its_maps_and_are_merged(name: str):
    image = IMAGE[..., :56, :56] if "patch14" in name else IMAGE
    backbone = small(name)
    before = [level.clone() for level in backbone(image)]
    names = backbone.state_dict().keys()
    parameters = add_lora(backbone, 3, generator_of("lora", 0))
    assert all(torch.equal(a, b) for a, b in zip(backbone(image), before, strict=True))

    backbone(image)[-1].square().sum().backward()
    ups = [parameter for parameter in parameters if not parameter.any()]
    assert len(ups) * 2 == len(parameters) >= 2 * 2 * 3  # at least two layers in three blocks
    reached = [up for up in ups if up.grad is not None and up.grad.abs().sum() > 0]
    assert len(reached) >= len(ups) - 2  # a layer may be behind one that gives 0 at first
    assert all(parameter.grad is None for key, parameter in backbone.named_parameters() if key.endswith("original"))

    with torch.no_grad():
        for up in ups:
            nn.init.normal_(up, std=0.1)
        changed = backbone(image)[-1]
        plain = merged(backbone)
        assert not torch.allclose(changed, before[-1], atol=1e-3)
        assert torch.allclose(plain(image)[-1], changed, atol=1e-4)
    assert plain.state_dict().keys() == names
    assert backbone.state_dict().keys() != names  # the copy is merged, not the network


def test_a_merged_weight_by_hand():
    layer = nn.Module()
    layer.attn = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        layer.attn.weight.copy_(torch.eye(3)[:, :2])
    down, up = add_lora(layer, 1, generator_of("lora", 0))
    with torch.no_grad():
        down.copy_(torch.tensor([[1.0, 2.0]]))
        up.copy_(torch.tensor([[0.0], [3.0], [-1.0]]))
    assert merged(layer).attn.weight.tolist() == [[1, 0], [3, 7], [-1, -2]]
    assert copy.deepcopy(layer).attn.weight.tolist() == [[1, 0], [3, 7], [-1, -2]]


def test_a_network_without_attention_is_told():
    config = BackboneConfig(out_indices=(2,), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match="lora_rank is for vision transformers of timm"):
        add_lora(build_backbone("timm/resnet10t", config), 4, generator_of("lora", 0))
