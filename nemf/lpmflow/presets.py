"""The sizes of an LPMFlow network, and the networks that have a name. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from nemf.model.backbone_config import BackboneConfig

VISION_TRANSFORMER = "lpmflow/vit"
"""The name of the published network's own backbone. Its create_kwargs are depth, heads, position_cells (see
nemf.lpmflow.tokens.VisionTransformer)."""


@dataclass(kw_only=True, slots=True)
class LPMFlowConfig:
    """Everything that decides the shape of a network."""

    backbone: str
    """VISION_TRANSFORMER, or the name of a backbone of nemf.model.backbone, whose maps become tokens."""
    backbone_config: BackboneConfig
    cells: int = 16
    """Cells a side of the coarse tokens; the network sees images of 16 times as many pixels a side, or as
    nearly as its backbone takes."""
    dim: int = 768
    """Channels of a token."""
    depth: int = 6
    """Blocks of the encoder of both images; 0 for none: the tokens of the backbone with positions added."""
    heads: int = 8
    """Heads of all attention but the backbone's."""
    mlp_ratio: int = 4
    upsampler_blocks: int = 2
    """Window blocks behind the bilinear upsampling of tokens; 0 for bilinear upsampling alone."""
    context_channels: int = 88
    """Channels of the tokens that are joined to the four flows to refine them."""
    windows: tuple[int, ...] = (16, 8, 4)
    """Sides of the windows in which the flows are refined, in cells of the flow; empty for the finest flow as it is."""


def paper() -> LPMFlowConfig:
    """The published network: a ViT-B/16 (iBOT), 179 M parameters with those that nothing reads."""
    return LPMFlowConfig(
        backbone=VISION_TRANSFORMER,
        backbone_config=BackboneConfig(
            create_kwargs={"depth": 12, "heads": 12, "position_cells": 14},
            mean=(0.485, 0.456, 0.406),
            std=(0.229, 0.224, 0.225),
        ),
    )


def small() -> LPMFlowConfig:
    """A network that trains on a CPU: MobileNetV1 (ImageNet), a third of the width, two blocks."""
    return LPMFlowConfig(
        backbone="timm/mobilenetv1_100",
        backbone_config=BackboneConfig(
            create_kwargs={"pad_type": "same", "bn_eps": 0.001},
            out_indices=(2, 3),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        dim=256,
        depth=2,
        heads=4,
        mlp_ratio=2,
        upsampler_blocks=1,
        context_channels=24,
        windows=(16, 4),
    )


def _without(**changes: Any) -> LPMFlowConfig:
    return replace(small(), **changes)


PRESETS: dict[str, Callable[[], LPMFlowConfig]] = {
    "lpmflow-paper": paper,
    "lpmflow-small": small,
    # the authors' table of modules, as far as it is one of sizes
    "lpmflow-small-no-encoder": partial(_without, depth=0),
    "lpmflow-small-no-upsampler": partial(_without, upsampler_blocks=0),
    "lpmflow-small-no-integration": partial(_without, windows=()),
    "lpmflow-small-no-window-16": partial(_without, windows=(4,)),
    "lpmflow-small-no-window-4": partial(_without, windows=(16,)),
}
