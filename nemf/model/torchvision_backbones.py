"""Networks of torchvision's ResNet family, up to the sums of residual blocks before their ReLU.

Stages give the sums of the last blocks of layer1..layer4, blocks those of any ("hyperpixels").
"""

from dataclasses import replace

import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from nemf.model.backbone_config import BackboneConfig, refuse_reserved
from nemf.model.weights_file import Published


def check(library: str, model: str) -> None:
    """Raises ValueError, naming `library` as the user does, if torchvision has no such ResNet."""
    resnets = torchvision.models.list_models(torchvision.models, include=["resnet*", "resnext*", "wide_resnet*"])
    if model not in resnets:
        raise ValueError(f"there is no backbone {library}/{model}; of torchvision there are {', '.join(resnets)}")


def stages_default_config(model: str) -> BackboneConfig:
    """The backbone's configuration: from the transforms of torchvision's own weights, and the maps of all four
    layers."""
    return replace(blocks_default_config(model), out_indices=(1, 2, 3, 4))


def stages_published(model: str, config: BackboneConfig) -> tuple[nn.Module, BackboneConfig]:
    """The network with torchvision's own weights, and its configuration."""
    weights = torchvision.models.get_model_weights(model).DEFAULT
    network = _with_random_weights(model, config)
    network.load_state_dict(weights.get_state_dict(check_hash=True, weights_only=True))
    library = stages_default_config(model)
    config = replace(config, mean=library.mean, std=library.std, out_indices=config.out_indices or library.out_indices)
    return _stages(network, config), config


def stages_from_file(model: str, config: BackboneConfig) -> tuple[nn.Module, Published]:
    """The network with random weights, and how torchvision publishes its tensors."""
    network = _with_random_weights(model, config)
    return _stages(network, config), _published_as(network)


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
    return _sums(network, [blocks[index - 1] for index in config.out_indices]), _published_as(network)


def _published_as(network: nn.Module) -> Published:
    """The names of the whole network's tensors, which feature extractors keep."""
    return Published(own_names={name: name for name in network.state_dict()})


def _with_random_weights(model: str, config: BackboneConfig) -> nn.Module:
    refuse_reserved(config.create_kwargs)
    return torchvision.models.get_model(model, **config.create_kwargs)


def _stages(network: nn.Module, config: BackboneConfig) -> nn.Module:
    """The network up to the sums of the last blocks of the layers that the configuration names."""
    last = {int(block.removeprefix("layer").split(".")[0]): block for block in _residual_blocks(network)}
    return _sums(network, [last[index] for index in config.out_indices or ()])


def _residual_blocks(network: nn.Module) -> list[str]:
    """The names of a ResNet's residual blocks, in order."""
    return [f"layer{i}.{name}" for i in range(1, 5) for name, _ in network.get_submodule(f"layer{i}").named_children()]


def _sums(network: nn.Module, blocks: list[str]) -> nn.Module:
    """The network up to the sums of those residual blocks, before their ReLU."""
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False  # in place, it would overwrite the sum with its own output
    return create_feature_extractor(network, {f"{block}.add": block for block in blocks})
