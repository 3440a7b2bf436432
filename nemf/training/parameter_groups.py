"""The parameters that are trained, with their learning rates; all others are frozen."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nemf.model.network import NeMF
from nemf.pmnc.network import PMNC
from nemf.training.config import LossConfig


def parameter_groups(model: NeMF, lr: float, backbone_lr: float | None, loss: LossConfig) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the head at `lr`, the backbone at `backbone_lr`. Sets requires_grad.

    The head is what the losses with a weight reach: neck and decoder (descriptor), cost encoder (field, flow) and field
    (field). Without backbone_lr the backbone is frozen. With it, two parts of it still are: batch normalisation, which
    keeps its scales, shifts and statistics; and the layers whose maps are larger than the largest output map, which
    take most of the time and hold edges and colours only. Raises ValueError where no parameter is left.
    """
    model.requires_grad_(False)
    head: list[nn.Module | None] = []
    if loss.descriptor_weight:
        if model.neck is None and backbone_lr is None:
            raise ValueError(
                "descriptor_weight would train nothing: the network has no neck and its backbone is frozen"
            )
        head += [model.neck, model.decoder]
    if loss.field_weight or loss.flow_weight:
        head.append(model.cost_encoder)
    if loss.field_weight:
        head.append(model.field)
    trained = [parameter for part in head if part is not None for parameter in part.parameters()]
    groups: list[dict[str, Any]] = [{"params": trained, "lr": lr}] if trained else []
    if backbone_lr is not None:
        groups.append({"params": deep_parameters(model), "lr": backbone_lr})
    if not groups:
        raise ValueError(
            "nothing would be trained: the backbone is frozen, and the network has no part that these losses are for"
        )
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return groups


def deep_parameters(model: NeMF | PMNC) -> list[nn.Parameter]:
    """Parameters of the backbone's layers whose maps are no larger than its largest output, batch norm excluded.

    A layer of a transformer has a vector for each cell, padding of windows and prefix tokens. Parameters that are no
    layer's own weights, such as tables of positions, are not among them.
    """
    n_cells: dict[nn.Module, int] = {}

    def record_cells(module: nn.Module, _: Any, output: Tensor) -> None:
        channels = next(module.parameters(recurse=False)).shape[0]
        n_cells[module] = output.numel() // (channels if channels in output.shape else output.shape[-1])

    leaves = [module for module in model.backbone.modules() if list(module.parameters(recurse=False))]
    hooks = [module.register_forward_hook(record_cells) for module in leaves]
    image = next(model.parameters()).new_zeros(1, 3, model.image_size, model.image_size)
    with torch.no_grad():
        largest = max(level.shape[-2] * level.shape[-1] for level in model.backbone(image))
    for hook in hooks:
        hook.remove()
    # the next finer maps have four times as many
    deep = [module for module in leaves if n_cells.get(module, math.inf) < 2 * largest]
    deep = [module for module in deep if not isinstance(module, _BatchNorm)]
    return [parameter for module in deep for parameter in module.parameters(recurse=False)]
