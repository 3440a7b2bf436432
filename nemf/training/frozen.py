"""Which parameters are trained, and how fast."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nemf.model.network import NeMF


def parameter_groups(model: NeMF, lr: float, backbone_lr: float | None) -> list[dict[str, Any]]:
    """Groups for an optimiser: the cost encoder and the field at `lr`, and the backbone at `backbone_lr`.

    Sets requires_grad. Without backbone_lr the backbone is frozen. With it, its batch normalisation still is: it keeps
    its scales and shifts, and its statistics too, since a Backbone is always in eval mode.
    """
    model.requires_grad_(True)
    model.backbone.requires_grad_(backbone_lr is not None)
    freeze_batch_norm(model.backbone)
    head = [*model.cost_encoder.parameters(), *model.field.parameters()]
    groups = [{"params": head, "lr": lr}]
    if backbone_lr is not None:
        trained = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
        groups.append({"params": trained, "lr": backbone_lr})
    return groups


def freeze_batch_norm(module: nn.Module) -> None:
    """Stops the training of every batch normalisation's scale and shift inside the module, and puts it in eval mode."""
    for inner in module.modules():
        if isinstance(inner, _BatchNorm):
            inner.eval().requires_grad_(False)
