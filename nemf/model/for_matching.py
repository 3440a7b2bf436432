"""Backbones as matching runs them on a CPU: the same maps but for rounding, in nearly half the time.

Batch normalisations are folded into the convolutions before them, and channels lie next to each other in memory.
"""

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from nemf.model.backbone import Backbone

_TOLERANCE = 1e-3
"""Of a map's values, as a share of its greatest one: rounding is a thousand times less."""

Model = TypeVar("Model", bound=nn.Module)


def for_matching(model: Model, device: torch.device, side_px: int) -> Model:
    """The model in eval mode on the device. On a CPU it is a copy whose backbone, `model.backbone` or the model itself,
    is faster; what else it holds it shares with the model, which is as before.

    side_px: side of square images that it takes.
    """
    model = model.eval().requires_grad_(False).to(device)
    if device.type != "cpu":
        return model
    if isinstance(model, Backbone):
        return _with_part(model, "network", _faster(model, side_px))
    if (neck := getattr(model, "neck", None)) is not None:
        neck.to(memory_format=torch.channels_last)
    backbone = model.backbone
    assert isinstance(backbone, Backbone)
    return _with_part(model, "backbone", for_matching(backbone, device, side_px))


def _with_part(model: Model, name: str, part: nn.Module) -> Model:
    """A copy of the model in which the part of that name is another."""
    copied = copy.copy(model)
    copied._modules = {**model._modules, name: part}
    return copied


@torch.no_grad()
def _faster(backbone: Backbone, side_px: int) -> nn.Module:
    """The backbone's network, folded where that gives the same maps."""
    network = backbone.network
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        folded = copy.deepcopy(network).eval()
        _fold(folded)
        image = torch.randn(1, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))
        maps = zip(_with_part(backbone, "network", folded)(image), backbone(image), strict=True)
        if all((ours - theirs).abs().max() <= _TOLERANCE * theirs.abs().max() for ours, theirs in maps):
            network = folded
    return network.to(memory_format=torch.channels_last)


def _fold(module: nn.Module) -> None:
    """Fold each normalisation that is listed right after a convolution into it; what it holds itself, as timm's hold
    their rectifiers, takes its place."""
    name_before, before = "", module
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            setattr(module, name_before, fuse_conv_bn_eval(before, child))
            setattr(module, name, nn.Sequential(*child.children()))
        _fold(child)
        name_before, before = name, child
