"""A PMNC network that is small enough to be trained in seconds."""

from dataclasses import replace

from nemf.pmnc.presets import pmnc_small

TINY_PMNC = replace(
    pmnc_small(),
    backbone="timm/resnet10t",
    backbone_config=replace(pmnc_small().backbone_config, create_kwargs={}),
    image_size=64,
    feature_size=8,
    channels=(4, 1),
)
"""Its backbone gives maps of 8 and 4 cells a side, 128 and 256 channels."""
