"""Networks of timm that give the feature maps of its features_only=True.

Beyond the arguments of timm's builders create_kwargs may hold `norm`, true for the final norm of a plain vision
transformer on every map.
"""

import difflib
import inspect
import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torch
from timm.models._features import FeatureGetterNet
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn

from nemf.model.backbone_config import BackboneConfig, refuse_reserved
from nemf.model.light_loading import shapes_only
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


def sized(model: str, create_kwargs: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """The arguments with the img_size nearest to `image_size` that a network of one size can be built for.

    They are as they were where they hold an img_size, where the network takes other sizes as it is, and where timm
    cannot bring its published tables of positions to another size.
    """
    _check(create_kwargs)
    try:
        return _sized(model, create_kwargs, image_size)
    except Exception:  # timm's builders and rules raise errors of many types for what cannot be
        return dict(create_kwargs)


def _sized(model: str, create_kwargs: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """The same; raises whatever timm does where no network of that size can be."""
    unchanged = dict(create_kwargs)
    whole: Any = _whole(model, create_kwargs)
    if "img_size" in create_kwargs or _dynamic_size(whole, create_kwargs):
        return unchanged
    step = max(stage["reduction"] for stage in whole.feature_info)
    side = max(round(image_size / step), 1) * step
    if not whole.pretrained_cfg.get("fixed_input_size") or side == whole.pretrained_cfg["input_size"][-1]:
        return unchanged
    changed = unchanged | {"img_size": side}
    other = _whole(model, changed)
    resized = _shapes(_conversion(whole, other)(whole.state_dict()))
    if resized == _shapes(whole.state_dict()) and _takes(whole, side):
        return unchanged
    return changed if _shapes(other.state_dict()).items() <= resized.items() else unchanged


def published(model: str, config: BackboneConfig) -> tuple[nn.Module, BackboneConfig]:
    """The network with timm's own weights, and its configuration."""
    dynamic = _dynamic_size(_whole(model, config.create_kwargs), config.create_kwargs)
    network = _maps(model, config, pretrained=True, **dynamic)
    source: Any = network.pretrained_cfg
    return network, replace(config, mean=tuple(source["mean"]), std=tuple(source["std"]))


def from_file(model: str, config: BackboneConfig) -> tuple[nn.Module, Published]:
    """The network with random weights, and how timm publishes its tensors."""
    arguments = config.create_kwargs
    _check(arguments)
    whole = _whole(model, arguments)
    network = _maps(model, config, pretrained=False, **_dynamic_size(whole, arguments))
    own = network.state_dict().keys()

    def own_name(name: str) -> str:
        # features_only wraps the model as `model` or `body`, or flattens the first level of its modules
        candidates = (name, f"model.{name}", f"body.{name}", name.replace(".", "_", 1))
        return next((candidate for candidate in candidates if candidate in own), name)

    original = _whole(model, {name: value for name, value in arguments.items() if name != "img_size"})
    return network, Published(
        own_names={name: own_name(name) for name in whole.state_dict()},
        convert=_conversion(original, whole),
        shapes=_shapes(original.state_dict()) if "img_size" in arguments else {},
    )


def _check(create_kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError for arguments that no file may give."""
    refuse_reserved(create_kwargs, inspect.signature(timm.create_model).parameters)


def _maps(model: str, config: BackboneConfig, *, pretrained: bool, **arguments: Any) -> nn.Module:
    """The network that gives the maps, with its final norm on each of them if the configuration says so."""
    given = {name: value for name, value in config.create_kwargs.items() if name != "norm"} | arguments
    create = partial(timm.create_model, model, pretrained=pretrained, **given)
    network = create(features_only=True, out_indices=config.out_indices)
    if not config.create_kwargs.get("norm"):
        return _behind_the_last_map_cut(network)
    whole: Any = create()
    if not isinstance(network, FeatureGetterNet) or isinstance(getattr(whole, "norm", nn.Identity()), nn.Identity):
        raise ValueError("norm is for plain vision transformers with a norm before their pooling: leave it out")
    normed = FeatureGetterNet(whole, out_indices=network.out_indices, norm=True)
    normed.pretrained_cfg = network.pretrained_cfg
    return normed


def _conversion(original: nn.Module, whole: nn.Module) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """timm's own rule that brings tensors of other names and sizes to those of `whole`."""
    rule = getattr(sys.modules[type(original).__module__], "checkpoint_filter_fn", None)
    if rule is None:
        return dict

    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        with warnings.catch_warnings():  # timm's interpolation of tables calls torch in ways that it will drop
            warnings.simplefilter("ignore", UserWarning)
            converted: dict[str, Tensor] = rule(dict(tensors), whole)
        return converted

    return convert


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _takes(whole: nn.Module, side: int) -> bool:
    """Whether a model on the meta device takes images of that side."""
    try:
        whole(torch.empty(1, 3, side, side, device="meta"))
    except Exception:  # models raise errors of many types
        return False
    return True


def _whole(model: str, create_kwargs: Mapping[str, Any]) -> nn.Module:
    """timm's whole model, with a classifier, on the meta device: it takes no memory."""
    arguments = {name: value for name, value in create_kwargs.items() if name not in ("feature_cls", "norm")}
    with shapes_only():
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
