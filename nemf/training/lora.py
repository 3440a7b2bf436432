"""LoRA (Hu et al., 2021): low-rank updates of the attention of a vision transformer, trained in place of its weights.

torch.nn.utils.parametrize makes W + B A of every weight W where it is read, however a block reads it; a library for
language models (peft) would bring more than these lines.
"""

import copy
import math
from typing import TypeVar

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize

Network = TypeVar("Network", bound=nn.Module)


class LowRankUpdate(nn.Module):
    """Adds B A, of a rank, to a weight; B is 0 at first."""

    def __init__(self, weight: Tensor, rank: int, generator: Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        down = torch.randn(rank, columns, generator=generator) / math.sqrt(columns)
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its update."""
        return weight + self.up @ self.down


def add_lora(backbone: nn.Module, rank: int, generator: Generator) -> list[nn.Parameter]:
    """Give every linear layer of the attention of a backbone's blocks an update, and return what is to be trained.

    generator: on the CPU. Raises ValueError for a backbone whose blocks have no attention of linear layers.
    """
    layers = [
        layer
        for name, attention in backbone.named_modules()
        if name.rpartition(".")[2] == "attn"
        for layer in attention.modules()
        if isinstance(layer, nn.Linear)
    ]
    if not layers:
        raise ValueError(
            "lora_rank is for vision transformers of timm, whose blocks have attention of linear layers; this backbone "
            "has none: leave it out, and backbone_lr trains its weights"
        )
    parameters: list[nn.Parameter] = []
    for layer in layers:
        update = LowRankUpdate(layer.weight, rank, generator)
        parametrize.register_parametrization(layer, "weight", update)
        parameters += [update.down, update.up]
    return parameters


def merged(network: Network) -> Network:
    """A copy of a network with the updates in its weights, whose tensors have the names they had without."""
    network = copy.deepcopy(network)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight"):
            # not remove_parametrizations, which would change the class that a copy shares with what it is of
            plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
            plain.weight = nn.Parameter(layer.weight.detach(), requires_grad=False)
            plain.bias = layer.bias
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, plain)
    return network
