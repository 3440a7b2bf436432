"""Networks of torchvision: of the ResNet family the sums of residual blocks before their ReLU, of others whole stages.

Of a ResNet, stages give the sums of the last blocks of layer1..layer4, blocks those of any ("hyperpixels"). Of another
network a stage is all that has maps of one size, and gives its last map; stages are numbered from 1, fine to coarse.
"""

from collections.abc import Iterable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from nemf.model.backbone_config import BackboneConfig, refuse_reserved
from nemf.model.weights_file import Published

_RESNETS = ("resnet*", "resnext*", "wide_resnet*")
_CHAINS = (
    "convnext*",
    "densenet*",
    "efficientnet*",
    "mnasnet*",
    "mobilenet*",
    "regnet*",
    "shufflenet*",
    "swin*",
    "vgg*",
)
"""Families whose modules are called one after the other."""
_OTHERS = {
    "vit": "timm has vision transformers of any size: timm/vit_base_patch16_224, timm/vit_base_patch14_dinov2.lvd142m",
    "maxvit": "timm has MaxViT for other sizes: timm/maxvit_tiny_tf_224",
}


def check(library: str, model: str) -> None:
    """Raises ValueError, naming `library` as the user does, if torchvision has no such network that gives maps."""
    include = _RESNETS if library == "torchvision-blocks" else (*_RESNETS, *_CHAINS)
    models = torchvision.models.list_models(torchvision.models, include=include)
    if model not in models:
        hint = _OTHERS.get(model.partition("_")[0])
        raise ValueError(
            f"there is no backbone {library}/{model}; {f'{hint}; ' if hint else ''}of torchvision there are "
            f"{', '.join(models)}"
        )


def stages_default_config(model: str) -> BackboneConfig:
    """The backbone's configuration: from the transforms of torchvision's own weights, and the maps of all stages."""
    n_stages = len(_stage_nodes(model))
    return replace(blocks_default_config(model), out_indices=tuple(range(1, n_stages + 1)))


def stages_published(model: str, config: BackboneConfig) -> tuple[nn.Module, BackboneConfig]:
    """The network with torchvision's own weights, and its configuration."""
    weights = torchvision.models.get_model_weights(model).DEFAULT
    network = _with_random_weights(model, config)
    network.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
    library = stages_default_config(model)
    config = replace(config, mean=library.mean, std=library.std, out_indices=config.out_indices or library.out_indices)
    return _stages(model, network, config), config


def stages_from_file(model: str, config: BackboneConfig) -> tuple[nn.Module, Published]:
    """The network with random weights, and how torchvision publishes its tensors."""
    network = _with_random_weights(model, config)
    return _stages(model, network, config), _published_as(network)


def blocks_default_config(model: str) -> BackboneConfig:
    """The backbone's configuration from the transforms of torchvision's own weights; it names no blocks."""
    normalisation = torchvision.models.get_model_weights(model).DEFAULT.transforms()
    return BackboneConfig(mean=tuple(normalisation.mean), std=tuple(normalisation.std))


def blocks_published(model: str, config: BackboneConfig) -> tuple[nn.Module, BackboneConfig]:
    """Raises ValueError, since the blocks are not known."""
    raise ValueError("needs a local weights file and a .json next to it whose out_indices name the blocks")


def blocks_from_file(model: str, config: BackboneConfig) -> tuple[nn.Module, Published]:
    """The network with random weights, and how torchvision publishes its tensors."""
    if not config.out_indices:
        raise ValueError("out_indices must say which blocks to take")
    network = _with_random_weights(model, config)
    blocks = _residual_blocks(network)
    nodes = [f"{blocks[index - 1]}.add" for index in config.out_indices]
    return _extracted(network, nodes), _published_as(network)


def _published_as(network: nn.Module) -> Published:
    """The names of the whole network's tensors, which feature extractors keep."""
    return Published(own_names={name: name for name in network.state_dict()})


def _with_random_weights(model: str, config: BackboneConfig) -> nn.Module:
    refuse_reserved(config.create_kwargs)
    return torchvision.models.get_model(model, **config.create_kwargs)


def _stages(model: str, network: nn.Module, config: BackboneConfig) -> nn.Module:
    """The network up to the last maps of the stages that the configuration names."""
    nodes = _stage_nodes(model)
    if unknown := [index for index in config.out_indices or () if not 1 <= index <= len(nodes)]:
        raise ValueError(f"its stages are numbered from 1 to {len(nodes)}; got {', '.join(map(str, unknown))}")
    stages: nn.Module = _extracted(network, [nodes[index - 1] for index in config.out_indices or ()])
    if _is_channels_last(network):
        stages.output_fmt = "NHWC"  # type: ignore[assignment]
    return stages


@cache
def _stage_nodes(model: str) -> tuple[str, ...]:
    """What gives the last map of each stage, fine to coarse: the names of nodes of the network's graph."""
    with torch.random.fork_rng(devices=[]):  # what is drawn later does not depend on whether this was called before
        network = torchvision.models.get_model(model).eval().to("meta")
    if hasattr(network, "layer1"):
        last = {block.split(".")[0]: block for block in _residual_blocks(network)}
        return tuple(f"{block}.add" for block in last.values())
    by_height: dict[int, str] = {}

    def record(name: str, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        by_height[output.shape[1 if _is_channels_last(network) else 2]] = name

    for name in _chain(network):
        network.get_submodule(name).register_forward_hook(partial(record, name))
    with torch.no_grad():
        network(torch.zeros(1, 3, 224, 224, device="meta"))
    return tuple(by_height.values())


def _is_channels_last(network: nn.Module) -> bool:
    return type(network).__name__ == "SwinTransformer"


def _chain(network: nn.Module) -> list[str]:
    """The names of the modules that are called one after the other."""
    for holder in ("features", "layers"):
        if hasattr(network, holder):
            return [f"{holder}.{name}" for name, _ in network.get_submodule(holder).named_children()]
    if hasattr(network, "trunk_output"):
        return ["stem", *(f"trunk_output.{name}" for name, _ in network.get_submodule("trunk_output").named_children())]
    return ["conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"]


def _residual_blocks(network: nn.Module) -> list[str]:
    """The names of a ResNet's residual blocks, in order."""
    return [f"layer{i}.{name}" for i in range(1, 5) for name, _ in network.get_submodule(f"layer{i}").named_children()]


def _extracted(network: nn.Module, nodes: list[str]) -> nn.Module:
    """The network up to those nodes, whose values it gives."""
    modules: Iterable[Any] = network.modules()
    for module in modules:
        if hasattr(module, "inplace"):
            module.inplace = False  # in place, an activation would overwrite what it is given with its own output
    return create_feature_extractor(network, {node: node for node in nodes})
