"""The sizes of a NeMF network, and the networks of given sizes."""

from dataclasses import dataclass

import torch

from nemf.model.backbone import Backbone, build_backbone
from nemf.model.cost_encoder import CostEncoder
from nemf.model.field import Field
from nemf.model.network import NeMF
from nemf.model.weights_file import BackboneConfig


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
    embedding_channels: tuple[int, int] = (4, 16)
    """Channels after the first and second 4D convolution of each level's correlation."""
    projection_dim: int = 128
    """Features of a cell beside its correlations."""
    depth: int = 4
    heads: int = 6
    mlp_ratio: int = 4
    hidden: int = 256
    """Width of the field."""
    field_blocks: int = 3
    frequencies: int = 10
    """Sine and cosine pairs per coordinate, at frequencies from 1 to 512."""


def paper() -> NeMFConfig:
    """The published network: ResNet-101, the sums of the last blocks of its four layers."""
    config = BackboneConfig(out_indices=(1, 2, 3, 4), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return NeMFConfig(backbone="torchvision/resnet101", backbone_config=config)


def small() -> NeMFConfig:
    """A network for CPUs: MobileNetV1, a fifth of the channels, one block of the transformer."""
    config = BackboneConfig(
        create_kwargs={"pad_type": "same", "bn_eps": 0.001},
        out_indices=(1, 2, 3),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    return NeMFConfig(
        backbone="timm/mobilenetv1_100",
        backbone_config=config,
        embedding_channels=(2, 4),
        projection_dim=64,
        depth=1,
        heads=4,
        mlp_ratio=2,
        hidden=128,
        field_blocks=2,
    )


def build(config: NeMFConfig, backbone: Backbone | None = None) -> NeMF:
    """The network of these sizes, with random weights, in eval mode.

    backbone: one that is loaded already, as `config` describes it; by default it gets random weights too.
    Raises ValueError for sizes that do not fit each other.
    """
    backbone = backbone or build_backbone(config.backbone, config.backbone_config)
    dim = config.feature_size**2 + config.projection_dim
    if dim % config.heads or dim % 2:
        raise ValueError(
            f"feature_size^2 + projection_dim = {dim} must be even and divisible by the number of heads, {config.heads}"
        )
    with torch.inference_mode():
        maps = backbone(torch.zeros(1, 3, config.image_size, config.image_size))
    cost_encoder = CostEncoder(
        level_shapes=tuple((features.shape[1], features.shape[2]) for features in maps),
        feature_size=config.feature_size,
        embedding_channels=config.embedding_channels,
        projection_dim=config.projection_dim,
        depth=config.depth,
        heads=config.heads,
        mlp_ratio=config.mlp_ratio,
    )
    field = Field(
        cost_channels=len(maps) * config.embedding_channels[1],
        hidden=config.hidden,
        n_blocks=config.field_blocks,
        n_frequencies=config.frequencies,
    )
    return NeMF(backbone, cost_encoder, field, image_size=config.image_size).eval()
