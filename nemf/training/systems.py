"""The networks that can be trained, and what is particular to each: how it begins, what is trained, its loss."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from nemf.lpmflow.network import LPMFlow
from nemf.model.network import NeMF
from nemf.pmnc.network import PMNC
from nemf.training import lpmflow, pmnc
from nemf.training.config import LossConfig
from nemf.training.initialization import initialize_at_correlation
from nemf.training.losses import TrainingLoss
from nemf.training.parameter_groups import parameter_groups


@dataclass(frozen=True, kw_only=True)
class System:
    """One kind of network. All have a `backbone` and an `image_size`."""

    network: type[nn.Module]
    initialize: Callable[[Any], None]
    """Replaces the random weights of a network behind a pretrained backbone, so that it begins at its features."""
    parameter_groups: Callable[[Any, float, float | None, LossConfig], list[dict[str, Any]]]
    """The parameter groups of (network, lr, backbone_lr, losses); sets requires_grad, and raises ValueError for losses
    that the network does not have."""
    loss: Callable[[Any, LossConfig], nn.Module]
    """A module of (batch, generator, progress) that returns scalars by name, `total` among them. progress: share of the
    training that is done, 0..1."""


SYSTEMS = (
    System(
        network=NeMF,
        initialize=initialize_at_correlation,
        parameter_groups=parameter_groups,
        loss=TrainingLoss,
    ),
    System(
        network=PMNC,
        initialize=pmnc.initialize_at_consensus,
        parameter_groups=pmnc.parameter_groups,
        loss=pmnc.PMNCLoss,
    ),
    System(
        network=LPMFlow,
        initialize=lpmflow.initialize_at_features,
        parameter_groups=lpmflow.parameter_groups,
        loss=lpmflow.LPMFlowLoss,
    ),
)


def system_of(model: nn.Module) -> System:
    """The kind of a network."""
    return next(system for system in SYSTEMS if isinstance(model, system.network))
