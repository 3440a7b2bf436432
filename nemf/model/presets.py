"""The sizes of a NeMF network, and the networks that have a name. Imports no torch."""

from dataclasses import dataclass, replace
from typing import Literal

from nemf.model.backbone_config import BackboneConfig


@dataclass(kw_only=True, slots=True)
class NeMFConfig:
    """Everything that decides the shape of a network."""

    backbone: str
    """Name of the backbone, see nemf.model.backbone."""
    backbone_config: BackboneConfig
    image_size: int = 256
    """Side of the square images the network takes, in pixels."""
    feature_size: int = 16
    """Cells a side of the refined correlation."""
    neck_channels: int = 0
    """Channels of the descriptors that a neck makes of the backbone's maps, at least 2; 0 for no neck, as published."""
    neck_blocks: int = 0
    """Residual blocks of the neck at the deepest map."""
    decoder_channels: int = 0
    """Width of the decoder of descriptors at any coordinate, behind the neck; 0 for none."""
    embedding_channels: tuple[int, ...] = (4, 16)
    """Channels after the first and second 4D convolution of each level's correlation; empty for no convolutions."""
    projection_dim: int = 128
    """Projected features of a cell, which its token has in addition to its correlations."""
    depth: int = 4
    """Blocks of the transformer; 0 for no transformer."""
    heads: int = 6
    mlp_ratio: int = 4
    cost_channels: int | None = None
    """Channels of the cost features that the field interpolates; None for as many as the refined correlation has."""
    keep_correlation: bool = False
    """Whether the mean of the refined correlation is one more cost feature."""
    hidden: int = 256
    """Width of the field."""
    field_blocks: int = 3
    frequencies: int = 10
    """Sine and cosine pairs per coordinate, at frequencies from 1 to 512."""


def paper() -> NeMFConfig:
    """The published network: ResNet-101, the sums of the last blocks of its four layers."""
    config = BackboneConfig(out_indices=(1, 2, 3, 4), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return NeMFConfig(backbone="torchvision/resnet101", backbone_config=config)


def nemf_small() -> NeMFConfig:
    """The network that ships: nemf_mobilenet, whose backbone is a residual network that imitates MobileNetV1's maps.

    Bottlenecks of half the usual widths have the maps of MobileNetV1; most of them are at 20 cells a side.
    """
    config = BackboneConfig(
        create_kwargs={"layers": [1, 2, 6, 1], "channels": [32, 64, 128, 256]},
        out_indices=(2, 3),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return replace(nemf_mobilenet(), backbone="timm/resnet26", backbone_config=config)


def nemf_mobilenet() -> NeMFConfig:
    """The head of nemf_small on a MobileNetV1 pretrained on ImageNet.

    Trained descriptors need no cost encoder to begin with: their correlation is used unrefined, with 40 cells a side
    instead of 16, and the field reads it in addition to the output of its own 4D convolution.
    """
    config = BackboneConfig(
        create_kwargs={"pad_type": "same", "bn_eps": 0.001},
        out_indices=(2, 3),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return NeMFConfig(
        backbone="timm/mobilenetv1_100",
        backbone_config=config,
        image_size=320,
        feature_size=40,
        neck_channels=192,
        neck_blocks=4,
        embedding_channels=(),
        depth=0,
        cost_channels=4,
        keep_correlation=True,
        hidden=128,
        field_blocks=2,
    )


def nemf_mobilenet_decoder() -> NeMFConfig:
    """nemf_mobilenet with descriptors at any coordinate, see nemf.model.descriptor_decoder; matched as
    descriptors:FOLDER."""
    return replace(nemf_mobilenet(), decoder_channels=64)


def _behind_vision_transformer(backbone: str, n_cells: int) -> NeMFConfig:
    """Descriptors at any coordinate behind two blocks of a ViT-B, at two thirds of its depth and its last, each with
    the final norm; cost encoder and field, at half its cells a side, are there to be trained behind them."""
    config = BackboneConfig(
        create_kwargs={"norm": True}, out_indices=(7, 11), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    return replace(
        nemf_mobilenet(),
        backbone=backbone,
        backbone_config=config,
        image_size=896,
        feature_size=n_cells // 2,
        neck_channels=384,
        neck_blocks=2,
        decoder_channels=256,
    )


def nemf_dinov2_base() -> NeMFConfig:
    """64 x 64 cells of DINOv2's ViT-B, to be fine-tuned by LoRA."""
    return _behind_vision_transformer("timm/vit_base_patch14_dinov2.lvd142m", n_cells=64)


def nemf_dinov3_base() -> NeMFConfig:
    """56 x 56 cells of DINOv3's ViT-B, to be fine-tuned by LoRA."""
    return _behind_vision_transformer("timm/vit_base_patch16_dinov3.lvd1689m", n_cells=56)


PRESETS = {
    "paper": paper,
    "nemf-small": nemf_small,
    "nemf-mobilenet": nemf_mobilenet,
    "nemf-mobilenet-decoder": nemf_mobilenet_decoder,
    "nemf-dinov2-base": nemf_dinov2_base,
    "nemf-dinov3-base": nemf_dinov3_base,
}

CostFeatureKind = Literal["raw", "convolution", "attention", "both"]
"""The rows of Table 3 of the paper."""


def with_cost_features(config: NeMFConfig, kind: CostFeatureKind) -> NeMFConfig:
    """A variant of Table 3 of the paper: without convolutions, transformer, or both, at the published 16 pixels a cell.

    The field reads the output of its 4D convolution only, as published. Where `config` lacks the convolutions or the
    transformer of a variant, those of a small network are used.
    """
    attends = kind in ("attention", "both")
    if attends and not config.depth:
        config = replace(config, depth=1, projection_dim=64, heads=4, mlp_ratio=2)
    return replace(
        config,
        feature_size=config.image_size // 16,
        keep_correlation=False,
        embedding_channels=() if kind in ("raw", "attention") else config.embedding_channels or (4, 8),
        depth=config.depth if attends else 0,
    )
