"""Networks of timm that give the feature maps of its features_only=True."""

import difflib
import inspect
import logging
import sys
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import nn

from nemf.model.backbone_config import BackboneConfig, refuse_reserved
from nemf.model.weights_file import Published


def check(model: str) -> None:
    """Raises ValueError, with names near it, if timm has no such model."""
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=5, cutoff=0.3)
        raise ValueError(f"timm has no model {model!r} (timm.list_models() lists them; near: {', '.join(near)})")


def default_config(model: str) -> BackboneConfig:
    """The backbone's configuration, from timm's pretrained configuration of the model and the maps that timm returns.

    Logs a warning where the name has no tag, and weights of other tags take images that are normalised otherwise.
    """
    library: Any = _whole(model, {}).pretrained_cfg
    mean, std = library["mean"], library["std"]
    others: list[Any] = [timm.get_pretrained_cfg(name) for name in timm.list_pretrained(f"{library['architecture']}.*")]
    unlike = [f"timm/{other.architecture}.{other.tag}" for other in others if (other.mean, other.std) != (mean, std)]
    if "." not in model and unlike:
        logging.getLogger("nemf").warning(
            f"timm/{model}: mean {mean} and std {std} are taken, those of its weights {library['tag']}; for weights "
            f"that have others give their whole name: {', '.join(unlike)}"
        )
    return BackboneConfig(mean=tuple(mean), std=tuple(std))


def published(model: str, out_indices: tuple[int, ...] | None) -> tuple[nn.Module, BackboneConfig]:
    """The network with timm's own weights."""
    dynamic = _dynamic_size(_whole(model, {}), {})
    network = timm.create_model(model, pretrained=True, features_only=True, out_indices=out_indices, **dynamic)
    source: Any = network.pretrained_cfg
    config = BackboneConfig(mean=tuple(source["mean"]), std=tuple(source["std"]), out_indices=out_indices)
    return _behind_the_last_map_cut(network), config


def from_file(model: str, config: BackboneConfig) -> tuple[nn.Module, Published]:
    """The network with random weights, and how timm publishes its tensors."""
    arguments = config.create_kwargs
    refuse_reserved(arguments, inspect.signature(timm.create_model).parameters)
    whole = _whole(model, arguments)
    network = timm.create_model(
        model,
        features_only=True,
        out_indices=config.out_indices,
        **arguments,
        **_dynamic_size(whole, arguments),
    )
    network = _behind_the_last_map_cut(network)
    own = network.state_dict().keys()

    def own_name(name: str) -> str:
        # features_only wraps the model as `model` or `body`, or flattens the first level of its modules
        candidates = (name, f"model.{name}", f"body.{name}", name.replace(".", "_", 1))
        return next((candidate for candidate in candidates if candidate in own), name)

    rule = getattr(sys.modules[type(whole).__module__], "checkpoint_filter_fn", None)
    return network, Published(
        own_names={name: own_name(name) for name in whole.state_dict()},
        convert=None if rule is None else lambda tensors: rule(tensors, whole),
    )


def _whole(model: str, create_kwargs: Mapping[str, Any]) -> nn.Module:
    """timm's whole model, with a classifier, on the meta device: it takes no memory."""
    arguments = {name: value for name, value in create_kwargs.items() if name != "feature_cls"}
    with torch.device("meta"):
        whole: nn.Module = timm.create_model(model, num_classes=1, **arguments)
    return whole


def _dynamic_size(whole: nn.Module, create_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The argument that lets a transformer take images of any size, where it has one that is not given already.

    It is no part of the configuration, so that matchers of a network's own size keep their fingerprints.
    """
    missing = hasattr(whole, "dynamic_img_size") and "dynamic_img_size" not in create_kwargs
    return {"dynamic_img_size": True} if missing else {}


def _behind_the_last_map_cut(network: nn.Module) -> nn.Module:
    if isinstance(network, EfficientNetFeatures | MobileNetV3Features):
        # timm cuts the other families behind their last map itself
        network.blocks = network.blocks[: network.feature_info.get_dicts()[-1]["stage"]]
    return network
