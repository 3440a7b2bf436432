"""Which parameters are trained, and how fast."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nemf.model.network import NeMF
from nemf.training.losses import LossConfig


def parameter_groups(model: NeMF, lr: float, backbone_lr: float | None, loss: LossConfig) -> list[dict[str, Any]]:
    """Groups for an optimiser: all but the backbone at `lr`, and the backbone at `backbone_lr`.

    A neck is trained by the descriptor loss: without it, it stays as it is.

    Sets requires_grad. Without backbone_lr the backbone is frozen. With it, two things still are: its batch
    normalisation, which keeps its scales, shifts and statistics; and the layers whose maps are larger than the largest
    one it gives: they take most of the time and tell no more than edges and colours. Parts that no loss reaches are
    left out. Raises ValueError where nothing is left.
    """
    model.requires_grad_(False)
    head: list[nn.Module | None] = []
    if loss.descriptor_weight:
        if model.neck is None and backbone_lr is None:
            raise ValueError(
                "descriptor_weight would train nothing: the network has no neck and its backbone is frozen"
            )
        head.append(model.neck)
    if loss.field_weight or loss.flow_weight:
        head.append(model.cost_encoder)
    if loss.field_weight:
        head.append(model.field)
    trained = [parameter for part in head if part is not None for parameter in part.parameters()]
    groups: list[dict[str, Any]] = [{"params": trained, "lr": lr}] if trained else []
    if backbone_lr is not None:
        groups.append({"params": _deep_parameters(model), "lr": backbone_lr})
    if not groups:
        raise ValueError(
            "nothing would be trained: the backbone is frozen, and the network has no part that these losses are for"
        )
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return groups


def _deep_parameters(model: NeMF) -> list[nn.Parameter]:
    """The backbone's parameters behind maps no larger than the largest it gives, without batch normalisation's."""
    sides: dict[nn.Module, int] = {}

    def note(module: nn.Module, _: Any, output: Tensor) -> None:
        sides[module] = output.shape[-1]

    leaves = [module for module in model.backbone.modules() if list(module.parameters(recurse=False))]
    hooks = [module.register_forward_hook(note) for module in leaves]
    image = next(model.parameters()).new_zeros(1, 3, model.image_size, model.image_size)
    with torch.no_grad():
        largest = max(level.shape[-1] for level in model.backbone(image))
    for hook in hooks:
        hook.remove()
    deep = [module for module in leaves if sides[module] <= largest and not isinstance(module, _BatchNorm)]
    return [parameter for module in deep for parameter in module.parameters(recurse=False)]
