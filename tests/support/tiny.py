"""A network with every optional part, small enough to be trained in seconds."""

from dataclasses import replace

from nemf.model.presets import nemf_small

TINY = replace(
    nemf_small(),
    backbone="timm/resnet10t",
    backbone_config=replace(nemf_small().backbone_config, create_kwargs={}),
    image_size=64,
    feature_size=4,
    neck_channels=16,
    neck_blocks=2,
    embedding_channels=(2, 4),
    projection_dim=16,
    depth=1,
    heads=2,
    mlp_ratio=2,
    cost_channels=None,
    keep_correlation=False,
    hidden=32,
    field_blocks=2,
)
"""Its backbone gives maps of 8 and 4 cells a side, 128 and 256 channels; its neck one of 8 cells, 16 channels."""
