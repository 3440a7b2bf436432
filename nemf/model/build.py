"""The network of given sizes."""

import torch

from nemf.model.backbone import Backbone, build_backbone
from nemf.model.cost_encoder import CostEncoder
from nemf.model.descriptor_decoder import DescriptorDecoder
from nemf.model.field import Field
from nemf.model.neck import Neck
from nemf.model.network import NeMF
from nemf.model.presets import NeMFConfig


def build(config: NeMFConfig, backbone: Backbone | None = None) -> NeMF:
    """The network of these sizes, with random weights, in eval mode.

    backbone: one that is loaded already, as `config` describes it; by default it gets random weights too.
    Raises ValueError for sizes that do not fit each other.
    """
    backbone = backbone or build_backbone(config.backbone, config.backbone_config)
    if config.decoder_channels and not config.neck_channels:
        raise ValueError("decoder_channels needs a neck, whose one map it decodes: give neck_channels too")
    neck = decoder = None
    dim = config.feature_size**2 + config.projection_dim
    if config.depth and (dim % config.heads or dim % 2):
        raise ValueError(
            f"feature_size^2 + projection_dim = {dim} must be even and divisible by the number of heads, {config.heads}"
        )
    with torch.no_grad():
        maps = backbone(torch.zeros(1, 3, config.image_size, config.image_size))
        if config.neck_channels:
            neck = Neck([features.shape[1] for features in maps], config.neck_channels, config.neck_blocks)
            maps = neck(maps)
    if config.decoder_channels:
        decoder = DescriptorDecoder(config.neck_channels, config.decoder_channels)
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
        correlation_channels=cost_encoder.n_channels,
        cost_channels=config.cost_channels or cost_encoder.n_channels,
        hidden=config.hidden,
        n_blocks=config.field_blocks,
        n_frequencies=config.frequencies,
        keep_correlation=config.keep_correlation,
    )
    return NeMF(backbone, cost_encoder, field, neck=neck, decoder=decoder, image_size=config.image_size).eval()
