"""Networks of timm that give the feature maps of its features_only=True."""

import difflib
import inspect
from typing import Any

import timm
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import nn

from nemf.model.backbone_config import BackboneConfig, refuse_reserved


def check(model: str) -> None:
    """Raises ValueError, with names near it, if timm has no such model."""
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=5, cutoff=0.3)
        raise ValueError(f"timm has no model {model!r} (timm.list_models() lists them; near: {', '.join(near)})")


def published(model: str, out_indices: tuple[int, ...] | None) -> tuple[nn.Module, BackboneConfig]:
    """The network with timm's own weights."""
    network = timm.create_model(model, pretrained=True, features_only=True, out_indices=out_indices)
    source: Any = network.pretrained_cfg
    config = BackboneConfig(mean=tuple(source["mean"]), std=tuple(source["std"]), out_indices=out_indices)
    return _behind_the_last_map_cut(network), config


def from_file(model: str, config: BackboneConfig) -> tuple[nn.Module, set[str]]:
    """The network with random weights, and the names of the tensors of its whole, some of which may be cut off."""
    refuse_reserved(config.create_kwargs, inspect.signature(timm.create_model).parameters)
    network = timm.create_model(model, features_only=True, out_indices=config.out_indices, **config.create_kwargs)
    whole = set(network.state_dict())
    return _behind_the_last_map_cut(network), whole


def _behind_the_last_map_cut(network: nn.Module) -> nn.Module:
    if isinstance(network, EfficientNetFeatures | MobileNetV3Features):
        # timm cuts the other families behind their last map itself
        network.blocks = network.blocks[: network.feature_info.get_dicts()[-1]["stage"]]
    return network
