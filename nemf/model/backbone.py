"""Backbones: frozen networks of timm and torchvision that turn images into feature maps."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nemf.model.backbone_config import BackboneConfig
from nemf.model.light_loading import without_compiler
from nemf.model.weights_file import Published, check_file, config_file, load_weights, read_config

_NONE = (0.0, 0.0, 0.0)
"""Stands for the normalisation where the library's own weights are asked for, and bring theirs."""


class _Source(NamedTuple):
    """A model of a library, and the functions that describe and build it."""

    model: str
    default_config: Callable[[str], BackboneConfig]
    published: Callable[[str, BackboneConfig], tuple[nn.Module, BackboneConfig]]
    from_file: Callable[[str, BackboneConfig], tuple[nn.Module, Published]]
    sized: Callable[[str, Mapping[str, Any], int], dict[str, Any]] | None = None


class Backbone(nn.Module):
    """A frozen network in eval mode that turns images into a list of feature maps, shallow to deep."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, network: nn.Module, config: BackboneConfig) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.network = network.requires_grad_(False)
        self.is_channels_last = getattr(network, "output_fmt", None) == "NHWC"  # copies of a graph lose the attribute
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)
        self.eval()

    @property
    def patch_size(self) -> int | None:
        """Side of the patches of a vision transformer that takes images of any multiple of it; None for others."""
        transformer: Any = getattr(self.network, "model", None)
        takes_multiples = getattr(transformer, "dynamic_img_size", False)
        # where images are padded to multiples, they may have any size
        if not takes_multiples or getattr(transformer.patch_embed, "dynamic_img_pad", False):
            return None
        return int(transformer.patch_embed.feat_ratio())

    @property
    def size_step(self) -> int:
        """The sides of images must be multiples of it for cells to tile them, in pixels: a patch, or 16."""
        if self.patch_size:
            return self.patch_size
        info: Any = getattr(self.network, "feature_info", None)
        coarsest = 16 if info is None else max(info.reduction())
        return 16 if coarsest.bit_count() == 1 else int(coarsest)

    @property
    def only_size(self) -> int | None:
        """Side of the only images that the network takes, in pixels, where it was built for one size."""
        return None if self.patch_size else self.config.create_kwargs.get("img_size")

    @property
    def trained_size(self) -> int | None:
        """Side of the images that the network was built for, in pixels, where its library says that it is fixed."""
        library: Mapping[str, Any] = getattr(self.network, "pretrained_cfg", {})
        if not library.get("fixed_input_size"):
            return None
        return int(self.config.create_kwargs.get("img_size") or library["input_size"][-1])

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """Feature maps (b, c_l, h_l, w_l) of images normalised as (rgb / 255 - mean) / std."""
        maps = self.network(image)
        if isinstance(maps, dict):
            maps = list(maps.values())
        if self.is_channels_last:
            return [features.permute(0, 3, 1, 2) for features in maps]
        return list(maps)

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in eval mode, whatever `mode` is."""
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


def load_backbone(
    name: str,
    weights: Path | None = None,
    out_indices: tuple[int, ...] | None = None,
    *,
    image_size: int | None = None,
    norm: bool = False,
) -> Backbone:
    """The backbone called 'timm/MODEL' or 'torchvision/MODEL'.

    weights: a safetensors file of the model's whole state dict or of that of features_only=True (see
        nemf.model.weights_file); None for the library's own weights, which it downloads once.
    out_indices: which maps to return instead of those that a .json next to the file names. By default timm gives those
        that it chooses itself (all stages of a pyramid, the last three blocks of a vision transformer), torchvision
        those of all stages.
    image_size: side of the images that it will be given, in pixels. A network that takes images of one size only is
        built for the nearest that it can be built for, and its tables of positions are resized as timm does.
    norm: apply the final norm of a vision transformer of timm to every map.
    timm gives the maps of its features_only=True. torchvision gives, for the ResNet family, the sums before the last
    ReLU of layer1..layer4, for other networks the last map of each size; its out_indices are their numbers from 1 on.
    'torchvision-blocks/MODEL' does so for any of a ResNet's residual blocks, which out_indices number from 1 through
    all four layers ("hyperpixels").
    Raises ValueError for an unusable name, file or weights, FileNotFoundError for a missing file.
    """
    source = _find(name)
    changed: dict[str, Any] = {"norm": True} if norm else {}
    if weights is None:
        if image_size is not None and source.sized is not None:
            changed = source.sized(source.model, changed, image_size)
        asked = BackboneConfig(create_kwargs=changed, out_indices=out_indices, mean=_NONE, std=_NONE)
        try:
            network, config = source.published(source.model, asked)
        except Exception as error:  # libraries and network faults raise errors of many types
            raise ValueError(
                f"{name}: cannot load its own weights ({type(error).__name__}: {error}); where they cannot be "
                "downloaded, give --backbone-weights FILE.safetensors, the model's whole state dict as it is published"
            ) from error
        return Backbone(name, network, config)

    config = describe_backbone(name, weights, image_size=image_size, norm=norm)
    if out_indices is not None:
        config = replace(config, out_indices=out_indices)
    try:
        network, published = _built(name, source, config)
    except ValueError as error:
        raise ValueError(f"{config_file(weights) or weights}: {error}") from error
    load_weights(network, weights, name, published)
    return Backbone(name, network, config)


def describe_backbone(
    name: str, weights: Path | None = None, *, image_size: int | None = None, norm: bool = False
) -> BackboneConfig:
    """The configuration with which load_backbone builds a backbone; no weights are read.

    Its out_indices are those of the .json next to the weights, else all that torchvision numbers, else None.
    Arguments and errors are those of load_backbone.
    """
    source = _find(name)
    described = None
    if weights is None:
        config = source.default_config(source.model)
    else:
        check_file(weights)
        described = config_file(weights)
        config = read_config(described, source.model, source.default_config)
    create_kwargs = config.create_kwargs | ({"norm": True} if norm else {})
    if image_size is not None and source.sized is not None:
        try:
            create_kwargs = source.sized(source.model, create_kwargs, image_size)
        except ValueError as error:
            raise ValueError(f"{described or weights}: {error}") from error
    return replace(config, create_kwargs=create_kwargs)


def every_layer(name: str) -> tuple[int, ...] | None:
    """The out_indices of all stages of a network of torchvision; None for one of timm, which then gives its own choice
    (all stages of a pyramid, the last three blocks of a vision transformer)."""
    source = _find(name)
    return None if name.startswith("timm/") else source.default_config(source.model).out_indices


def build_backbone(name: str, config: BackboneConfig) -> Backbone:
    """The backbone called `name` as `config` describes it, with random weights: a checkpoint fills them.

    Raises ValueError for a name that load_backbone would not take and for a configuration that does not fit.
    """
    network, _ = _built(name, _find(name), config)
    return Backbone(name, network, config)


def _built(name: str, source: _Source, config: BackboneConfig) -> tuple[nn.Module, Published]:
    """The network with random weights, and how its library publishes its tensors; ValueError where none can be."""
    try:
        return source.from_file(source.model, config)
    except Exception as error:  # a wrong configuration may raise anything
        raise ValueError(
            f"{name} cannot be built with {config.create_kwargs} and out_indices {list(config.out_indices or [])} "
            f"({type(error).__name__}: {error})"
        ) from error


def _find(name: str) -> _Source:
    """The model of that name, and how to build it with its library's weights and without.

    The libraries are imported here: they take seconds, and features such as dense SIFT need neither.
    """
    library, _, model = name.partition("/")
    if library == "timm":
        with without_compiler():
            from nemf.model import timm_backbones

        timm_backbones.check(model)
        return _Source(
            model,
            timm_backbones.default_config,
            timm_backbones.published,
            timm_backbones.from_file,
            timm_backbones.sized,
        )
    if library in ("torchvision", "torchvision-blocks"):
        with without_compiler():
            from nemf.model import torchvision_backbones

        torchvision_backbones.check(library, model)
        kind = "blocks" if library == "torchvision-blocks" else "stages"
        functions = ("default_config", "published", "from_file")
        return _Source(model, *(getattr(torchvision_backbones, f"{kind}_{function}") for function in functions))
    raise ValueError(f"there is no backbone {name!r}; there are timm/MODEL and torchvision/MODEL")
