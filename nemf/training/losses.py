"""What training minimises: the field must prefer the true match, and the coarse flow must point at it."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from nemf.coordinates import norm_to_px, px_to_norm
from nemf.model.network import NeMF
from nemf.training.batch import Batch
from nemf.training.descriptor_loss import descriptor_loss

Kind = Literal["softmax", "binary"]
LOSSES = ("field", "flow", "descriptor")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """How the losses are computed and weighed."""

    field_weight: float = 1.0
    """The paper's lambda_f."""
    flow_weight: float = 1.0
    """The paper's lambda_c."""
    descriptor_weight: float = 0.0
    """Weight of the loss of nemf.training.descriptor_loss, which the paper does not have."""
    negatives: int = 99
    """Wrong candidates for each point and direction."""
    hard: float = 0.5
    """Share of the negatives that are near misses; the paper has none."""
    hard_radius_norm: tuple[float, float] = (0.05, 0.3)
    """How far near misses are from the true point: at least and at most."""
    kind: Kind = "softmax"
    """Cross-entropy of the true candidate among all; or of every candidate's sigmoid, the true one weighing as much as
    its negatives together."""

    def __post_init__(self) -> None:
        weights = (self.field_weight, self.flow_weight, self.descriptor_weight)
        if min(weights) < 0 or not sum(weights):
            raise ValueError(
                "field_weight, flow_weight and descriptor_weight must be at least 0 and not all 0; "
                f"got {', '.join(map(str, weights))}"
            )
        low, high = self.hard_radius_norm
        if self.negatives < 1 or not 0 <= self.hard <= 1 or not 0 <= low <= high:
            raise ValueError(
                "negatives must be at least 1, hard from 0 to 1, and hard_radius_norm two distances, the lesser first; "
                f"got {self.negatives}, {self.hard}, {self.hard_radius_norm}"
            )


class TrainingLoss(nn.Module):
    """The network with its losses: a module, so that it can be wrapped for several devices."""

    def __init__(self, model: NeMF, config: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: Batch, generator: Generator) -> dict[str, Tensor]:
        """`field`, `flow` and `descriptor`, those whose weight is not 0, and their weighted sum as `total`; scalars."""
        model, config = self.model, self.config
        n_pairs = len(batch.source)
        images = torch.cat([batch.source, batch.target]).contiguous(memory_format=torch.channels_last)
        maps = model.features(images)
        losses = {}
        if config.field_weight or config.flow_weight:
            encoded = model.encode_features([level[:n_pairs] for level in maps], [level[n_pairs:] for level in maps])
            points = (batch.pair, batch.source_xy_norm, batch.target_xy_norm)
            if config.field_weight:
                losses["field"] = field_loss(model.field, encoded.cost_features, *points, generator, config)
            if config.flow_weight:
                losses["flow"] = flow_loss(encoded.coarse_flow, *points)
        if config.descriptor_weight:
            image = torch.cat([batch.pair, n_pairs + batch.pair])
            xy_norm = torch.cat([batch.source_xy_norm, batch.target_xy_norm])
            by_level = [descriptor_loss(level, image, xy_norm, batch.keypoint.repeat(2)) for level in maps]
            losses["descriptor"] = torch.stack(by_level).mean()
        weights = {"field": config.field_weight, "flow": config.flow_weight, "descriptor": config.descriptor_weight}
        return losses | {"total": torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()}


def field_loss(
    field: nn.Module,
    cost_features: Float[Tensor, "b c hs ws ht wt"],
    pair: Int64[Tensor, " m"],
    source_xy_norm: Float[Tensor, "m 2"],
    target_xy_norm: Float[Tensor, "m 2"],
    generator: Generator,
    config: LossConfig,
) -> Float[Tensor, ""]:
    """Equation 5: how badly the field tells true matches from wrong ones; the mean over points and both directions.

    Each source point meets its true target point among wrong ones, and each target point its true source point. Wrong
    ones are even over the image, but near misses lie in a ring around the true point, and so perhaps outside.

    field: logits of points as nemf.model.field.Field gives them. It is asked pair by pair, since pairs differ in their
        points: autograd keeps 2 (1 + negatives) queries for each match, of 8 KiB each in the published network.
    pair: which of the b pairs each match belongs to.
    generator: of the CPU, so that all devices draw the same.
    A field that cannot tell has the loss log(1 + negatives) with softmax, log 2 with binary.
    """
    sources, targets = (
        torch.cat([true[:, None], _misses(true, generator, config)], dim=1) for true in (source_xy_norm, target_xy_norm)
    )
    asked_source = torch.cat([source_xy_norm[:, None].expand_as(targets), sources], dim=1)
    asked_target = torch.cat([targets, target_xy_norm[:, None].expand_as(sources)], dim=1)
    volumes = cost_features.float().split(1)
    logits = []
    for number in pair.unique().tolist():
        queries = [xy_norm[pair == number].flatten(0, 1)[None] for xy_norm in (asked_source, asked_target)]
        logits.append(field(volumes[number], *queries, positional_gradient=False))
    candidates = torch.cat(logits, dim=1).float().view(-1, 1 + config.negatives)
    if config.kind == "softmax":
        return F.cross_entropy(candidates, torch.zeros(len(candidates), dtype=torch.long, device=candidates.device))
    return (F.softplus(-candidates[:, 0]).mean() + F.softplus(candidates[:, 1:]).mean()) / 2


def flow_loss(
    coarse_flow: Float[Tensor, "b 2 h w"],
    pair: Int64[Tensor, " m"],
    source_xy_norm: Float[Tensor, "m 2"],
    target_xy_norm: Float[Tensor, "m 2"],
) -> Float[Tensor, ""]:
    """Equation 6: the mean distance, in cells, between the coarse flow's displacement and the true one.

    coarse_flow: the normalised source (x, y) of every target cell.
    The displacement of a match is compared with that of the target cell whose centre is nearest to its target point,
    the first and last centres being at -1 and 1. Target points must lie within.
    """
    hw = coarse_flow.shape[2], coarse_flow.shape[3]
    cell = norm_to_px(target_xy_norm, hw).round()
    column, row = cell.long().unbind(-1)
    found_norm = coarse_flow[pair, :, row, column].float() - px_to_norm(cell, hw)
    error_norm = found_norm - (source_xy_norm - target_xy_norm)
    cells_per_unit = error_norm.new_tensor([hw[1] - 1, hw[0] - 1]) / 2
    return torch.linalg.vector_norm(error_norm * cells_per_unit, dim=-1).mean()


def _misses(true_xy_norm: Float[Tensor, "m 2"], generator: Generator, config: LossConfig) -> Float[Tensor, "m n 2"]:
    """Points other than the true ones: some anywhere in the image, then some near by."""
    m, device = len(true_xy_norm), true_xy_norm.device
    n_hard = round(config.hard * config.negatives)
    anywhere = torch.rand(m, config.negatives - n_hard, 2, generator=generator).to(device) * 2 - 1
    distance, angle = torch.rand(2, m, n_hard, generator=generator).to(device)
    low, high = config.hard_radius_norm
    distance = low + (high - low) * distance
    angle = 2 * math.pi * angle
    near = true_xy_norm[:, None] + distance[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return torch.cat([anywhere, near], dim=1)
