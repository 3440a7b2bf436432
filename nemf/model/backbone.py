"""Backbones: frozen networks of timm and torchvision that turn images into feature maps."""

import difflib
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from jaxtyping import Float
from timm.layers.format import Format
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.mobilenetv3 import MobileNetV3Features
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from nemf.model.backbone_config import BackboneConfig
from nemf.model.weights_file import load_weights, read_config

_Published = Callable[[str, tuple[int, ...] | None], tuple[nn.Module, BackboneConfig]]
_FromFile = Callable[[str, BackboneConfig], tuple[nn.Module, set[str]]]

_RESERVED = {"weights", "progress", "num_classes"}
"""Arguments of the builders that no file gives; a classifier would be cut off, but could be of any size."""


class Backbone(nn.Module):
    """A frozen network in eval mode that turns images into a list of feature maps, shallow to deep."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, network: nn.Module, config: BackboneConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.network = network.requires_grad_(False)
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)
        self.eval()

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Feature maps (b, c_l, h_l, w_l) of images normalised as (rgb / 255 - mean) / std."""
        maps = self.network(image)
        if isinstance(maps, dict):
            return list(maps.values())
        if getattr(self.network, "output_fmt", None) == Format.NHWC:
            return [features.permute(0, 3, 1, 2) for features in maps]
        return list(maps)

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in eval mode whatever is asked."""
        return super().train(False)

    def digest(self) -> str:
        """A hash of everything the feature maps depend on: name, configuration and weights."""
        return tensors_digest(self.state_dict(), [self.name, asdict(self.config)])


def tensors_digest(tensors: Mapping[str, Tensor], configuration: Any) -> str:
    """A hash of a network's tensors and of its configuration, plain JSON values."""
    sha = hashlib.sha256(json.dumps(configuration, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        sha.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()


def load_backbone(name: str, weights: Path | None = None, out_indices: tuple[int, ...] | None = None) -> Backbone:
    """The backbone called 'timm/MODEL' or 'torchvision/MODEL'.

    weights: a safetensors file with a .json beside it (see nemf.model.weights_file); None for the library's own
        ImageNet weights, which it downloads once.
    out_indices: which maps to give instead of those that the file names, or of all.
    timm gives the maps of its features_only=True. torchvision gives, for the ResNet family, the sums before the last
    ReLU of layer1..layer4; its out_indices are these numbers, 1 to 4. 'torchvision-blocks/MODEL' does so for any of
    its residual blocks, which out_indices number from 1 through all four layers ("hyperpixels").
    Raises ValueError for a name, a file or weights that will not do, FileNotFoundError where a file is not there.
    """
    model, published, from_file = _find(name)
    if weights is None:
        try:
            network, config = published(model, out_indices)
        except Exception as error:  # no two libraries, and no two network faults, raise the same kind
            raise ValueError(
                f"{name}: cannot load its own ImageNet weights ({type(error).__name__}: {error}); "
                "where they cannot be downloaded, give --backbone-weights FILE.safetensors"
            ) from error
        return Backbone(name, network, config)

    config = read_config(weights, model)
    if out_indices is not None:
        config = replace(config, out_indices=out_indices)
    try:
        network, spare = from_file(model, config)
    except Exception as error:  # the file's arguments may be anything, and so may what they break
        raise ValueError(
            f"{weights.with_suffix('.json')}: {name} cannot be built with {config.create_kwargs} and out_indices "
            f"{list(config.out_indices or [])} ({type(error).__name__}: {error})"
        ) from error
    load_weights(network, weights, spare)
    return Backbone(name, network, config)


def build_backbone(name: str, config: BackboneConfig) -> Backbone:
    """The backbone called `name` as `config` describes it, with random weights: a checkpoint fills them.

    Raises ValueError for a name that load_backbone would not take and for a configuration that does not fit.
    """
    model, _, from_file = _find(name)
    try:
        network, _ = from_file(model, config)
    except Exception as error:  # the configuration may hold anything, and so may what it breaks
        raise ValueError(
            f"{name} cannot be built with {config.create_kwargs} and out_indices {list(config.out_indices or [])} "
            f"({type(error).__name__}: {error})"
        ) from error
    return Backbone(name, network, config)


def _find(name: str) -> tuple[str, _Published, _FromFile]:
    """The model of that name, and how to build it with its library's weights and without."""
    library, _, model = name.partition("/")
    if library == "timm":
        if not timm.is_model(model):
            near = difflib.get_close_matches(model, timm.list_models(), n=5, cutoff=0.3)
            raise ValueError(f"timm has no model {model!r} (timm.list_models() lists them; near: {', '.join(near)})")
        return model, _timm_published, _timm_from_file
    if library in ("torchvision", "torchvision-blocks"):
        resnets = torchvision.models.list_models(torchvision.models, include=["resnet*", "resnext*", "wide_resnet*"])
        if model not in resnets:
            raise ValueError(f"there is no backbone {library}/{model}; of torchvision there are {', '.join(resnets)}")
        if library == "torchvision-blocks":
            return model, _blocks_published, _blocks_from_file
        return model, _torchvision_published, _torchvision_from_file
    raise ValueError(f"there is no backbone {name!r}; there are timm/MODEL and torchvision/MODEL")


def _timm_published(model: str, out_indices: tuple[int, ...] | None) -> tuple[nn.Module, BackboneConfig]:
    network = timm.create_model(model, pretrained=True, features_only=True, out_indices=out_indices)
    source: Any = network.pretrained_cfg
    config = BackboneConfig(mean=tuple(source["mean"]), std=tuple(source["std"]), out_indices=out_indices)
    return _behind_the_last_map_cut(network), config


def _timm_from_file(model: str, config: BackboneConfig) -> tuple[nn.Module, set[str]]:
    _refuse(config.create_kwargs.keys() & {*inspect.signature(timm.create_model).parameters, *_RESERVED})
    network = timm.create_model(model, features_only=True, out_indices=config.out_indices, **config.create_kwargs)
    whole = set(network.state_dict())
    return _behind_the_last_map_cut(network), whole


def _behind_the_last_map_cut(network: nn.Module) -> nn.Module:
    if isinstance(network, EfficientNetFeatures | MobileNetV3Features):
        # timm cuts the other families behind their last map itself
        network.blocks = network.blocks[: network.feature_info.get_dicts()[-1]["stage"]]
    return network


def _torchvision_published(model: str, out_indices: tuple[int, ...] | None) -> tuple[nn.Module, BackboneConfig]:
    weights = torchvision.models.get_model_weights(model).DEFAULT
    network = torchvision.models.get_model(model)
    network.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
    normalisation = weights.transforms()
    config = BackboneConfig(
        mean=tuple(normalisation.mean), std=tuple(normalisation.std), out_indices=out_indices or (1, 2, 3, 4)
    )
    return _torchvision_stages(network, config), config


def _torchvision_from_file(model: str, config: BackboneConfig) -> tuple[nn.Module, set[str]]:
    _refuse(config.create_kwargs.keys() & _RESERVED)
    network = torchvision.models.get_model(model, **config.create_kwargs)
    return _torchvision_stages(network, config), set(network.state_dict())


def _torchvision_stages(network: nn.Module, config: BackboneConfig) -> nn.Module:
    """The network up to the sums of the last blocks of the layers asked for."""
    last = {int(block.removeprefix("layer").split(".")[0]): block for block in _residual_blocks(network)}
    return _sums(network, [last[index] for index in config.out_indices or ()])


def _blocks_published(model: str, out_indices: tuple[int, ...] | None) -> tuple[nn.Module, BackboneConfig]:
    raise ValueError("only a local file's out_indices say which blocks to take")


def _blocks_from_file(model: str, config: BackboneConfig) -> tuple[nn.Module, set[str]]:
    _refuse(config.create_kwargs.keys() & _RESERVED)
    network = torchvision.models.get_model(model, **config.create_kwargs)
    blocks = _residual_blocks(network)
    return _sums(network, [blocks[index - 1] for index in config.out_indices or ()]), set(network.state_dict())


def _residual_blocks(network: nn.Module) -> list[str]:
    """The names of a ResNet's residual blocks, in order."""
    return [f"layer{i}.{name}" for i in range(1, 5) for name, _ in network.get_submodule(f"layer{i}").named_children()]


def _sums(network: nn.Module, blocks: list[str]) -> nn.Module:
    """The network up to the sums of those residual blocks, before their ReLU."""
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # in place, it would turn the sum just taken into its own output
    return create_feature_extractor(network, {f"{block}.add": block for block in blocks})


def _refuse(reserved: set[str]) -> None:
    if reserved:
        raise ValueError(f"{', '.join(sorted(reserved))} may not be among create_kwargs")
