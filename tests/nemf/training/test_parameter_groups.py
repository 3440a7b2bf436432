from dataclasses import replace

import pytest
import torch
from tiny import TINY

from nemf.model.build import build
from nemf.model.network import NeMF
from nemf.model.presets import NeMFConfig
from nemf.training.batch import Batch
from nemf.training.config import LossConfig
from nemf.training.losses import TrainingLoss
from nemf.training.parameter_groups import parameter_groups
from nemf.training.rng import generator_of

FIELD = LossConfig(flow_weight=0.0, negatives=3)
FLOW = LossConfig(field_weight=0.0)
DESCRIPTOR = LossConfig(field_weight=0.0, flow_weight=0.0, descriptor_weight=1.0)
ALL = LossConfig(descriptor_weight=1.0, negatives=3)
WITHOUT_NECK = replace(TINY, neck_channels=0)
RAW = replace(TINY, embedding_channels=(), depth=0)

HEAD = {"neck", "cost_encoder", "field"}
DEEP = {
    f"layer{number}.0.{convolution}.weight" for number in (2, 3) for convolution in ("conv1", "conv2", "downsample.1")
}
"""The backbone's convolutions behind its largest map to correlate, that of layer2; no batch normalisation."""


def trained(model: NeMF) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("config", "loss", "expected"),
    [
        (TINY, ALL, HEAD),
        (TINY, FIELD, {"cost_encoder", "field"}),
        (TINY, FLOW, {"cost_encoder"}),
        (TINY, DESCRIPTOR, {"neck"}),
        (RAW, FIELD, {"field"}),
        (WITHOUT_NECK, replace(ALL, descriptor_weight=0.0), {"cost_encoder", "field"}),
        (WITHOUT_NECK, FLOW, {"cost_encoder"}),
    ],
)
def test_parts_that_a_loss_is_for_are_trained(config: NeMFConfig, loss: LossConfig, expected: set[str]):
    model = build(config)

    (head,) = parameter_groups(model, 0.5, None, loss)

    names = {name for name, _ in model.named_parameters() if name.partition(".")[0] in expected}
    assert trained(model) == names
    assert {id(parameter) for parameter in head["params"]} == {id(model.get_parameter(name)) for name in names}
    assert head["lr"] == 0.5


def test_of_the_backbone_the_deep_convolutions_are_trained_at_a_rate_of_their_own():
    model = build(TINY)

    head, backbone = parameter_groups(model, 0.5, 0.25, DESCRIPTOR)

    assert (head["lr"], backbone["lr"]) == (0.5, 0.25)
    assert {id(p) for p in backbone["params"]} == {id(model.backbone.network.get_parameter(name)) for name in DEEP}
    assert trained(model) == {
        *(f"neck.{name}" for name, _ in model.neck.named_parameters()),
        *(f"backbone.network.{name}" for name in DEEP),
    }


def test_of_a_vision_transformer_all_blocks_are_trained():
    """Its layers have a vector for each cell and prefix token; the table of positions is no layer's."""
    backbone = replace(
        TINY.backbone_config, create_kwargs={"depth": 2, "embed_dim": 24, "num_heads": 2}, out_indices=(0, 1)
    )
    model = build(replace(TINY, backbone="timm/vit_tiny_patch16_224", backbone_config=backbone))

    parameter_groups(model, 0.5, 0.25, DESCRIPTOR)

    of_backbone = {name.removeprefix("backbone.network.model.") for name in trained(model) if "backbone" in name}
    blocks = {name for name, _ in model.backbone.network.model.named_parameters() if name.startswith("blocks.")}
    assert of_backbone == blocks | {"patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_of_a_convnext_the_stages_behind_the_finest_map_are_trained():
    """Its norms work on maps and on vectors, and its blocks have scales of their own; maps of 8 and 16 px a cell are
    those of its second and third stage."""
    backbone = replace(TINY.backbone_config, create_kwargs={}, out_indices=(1, 2))
    model = build(replace(TINY, backbone="timm/convnext_atto", backbone_config=backbone))

    parameter_groups(model, 0.5, 0.25, DESCRIPTOR)

    of_backbone = {name.removeprefix("backbone.network.") for name in trained(model) if "backbone" in name}
    behind = {
        name for name, _ in model.backbone.network.named_parameters() if name.startswith(("stages_1", "stages_2"))
    }
    before = {f"stages_1.downsample.0.{name}" for name in ("weight", "bias")}  # the norm before it, on the finer map
    assert of_backbone == behind - before


def test_what_was_trained_before_is_frozen_again():
    model = build(TINY)
    parameter_groups(model, 0.5, 0.25, ALL)

    parameter_groups(model, 0.5, None, DESCRIPTOR)

    assert {name.partition(".")[0] for name in trained(model)} == {"neck"}


def test_a_backbone_alone_can_be_trained_and_nothing_at_all_cannot():
    (backbone,) = parameter_groups(build(WITHOUT_NECK), 0.5, 0.25, DESCRIPTOR)
    assert (backbone["lr"], len(backbone["params"])) == (0.25, len(DEEP))

    with pytest.raises(ValueError, match="nothing would be trained: "):
        parameter_groups(build(RAW), 0.5, None, FLOW)
    for loss in (DESCRIPTOR, ALL):
        with pytest.raises(ValueError, match="descriptor_weight would train nothing: the network has no neck"):
            parameter_groups(build(WITHOUT_NECK), 0.5, None, loss)


@pytest.mark.parametrize("loss", [ALL, FIELD, FLOW, DESCRIPTOR])
@pytest.mark.parametrize("config", [TINY, RAW])
def test_every_parameter_that_is_trained_gets_a_gradient(config: NeMFConfig, loss: LossConfig):
    """Training on several devices waits for each of them."""
    model = build(config)
    parameter_groups(model, 0.5, 0.25, loss)
    generator = generator_of("batch")
    images, points = torch.randn(2, 2, 3, 64, 64, generator=generator), torch.rand(2, 4, 2, generator=generator)
    batch = Batch(
        reference=images[0],
        query=images[1],
        pair=torch.tensor([0, 0, 1, 1]),
        reference_xy_norm=points[0],
        query_xy_norm=points[1],
        keypoint=torch.tensor([0, 1, 0, 2]),
        probability=torch.ones(4),
    )

    TrainingLoss(model, loss)(batch, generator, 0.0)["total"].backward()

    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == trained(model)
