"""The losses of training: of the field (equation 5), of the coarse flow (equation 6) and of the descriptors.

A match that is right with a probability p below 1, as pseudo-labels are, counts p times. Where a loss is the
cross-entropy of the match among candidates, its likelihood is moreover p times that of the network and 1 - p times that
of any candidate, all alike (nemf.training.label_noise): what the network contradicts hardly pulls at it.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from nemf.coordinates import norm_to_px, px_to_norm
from nemf.model.network import NeMF
from nemf.training.batch import Batch
from nemf.training.config import LossConfig
from nemf.training.descriptor_loss import descriptor_loss
from nemf.training.implicit_loss import implicit_descriptor_loss
from nemf.training.label_noise import noisy_loss, weighted_mean

HARD_RADIUS_NORM = (0.05, 0.3)
"""Minimum and maximum distance of hard negatives from the true point, normalised."""


class TrainingLoss(nn.Module):
    """The network with its losses: one module, so that DistributedDataParallel can wrap it."""

    def __init__(self, model: NeMF, config: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: Batch, generator: Generator, progress: float) -> dict[str, Tensor]:
        """`field`, `flow` and `descriptor`, those whose weight is not 0, and their weighted sum as `total`; scalars.

        progress: share of the training that is done, 0..1.
        """
        model, config = self.model, self.config
        n_pairs = len(batch.reference)
        images = torch.cat([batch.reference, batch.query]).contiguous(memory_format=torch.channels_last)
        maps = model.features(images)
        losses = {}
        if config.field_weight or config.flow_weight:
            encoded = model.encode_features([level[:n_pairs] for level in maps], [level[n_pairs:] for level in maps])
            points = (batch.pair, batch.reference_xy_norm, batch.query_xy_norm, batch.probability)
            if config.field_weight:
                losses["field"] = field_loss(model.field, encoded.cost_features, *points, generator, config)
            if config.flow_weight:
                losses["flow"] = flow_loss(encoded.coarse_flow, *points)
        if config.descriptor_weight:
            image = torch.cat([batch.pair, n_pairs + batch.pair])
            xy_norm = torch.cat([batch.reference_xy_norm, batch.query_xy_norm])
            labels = (batch.keypoint.repeat(2), batch.probability.repeat(2))
            if model.decoder is None:
                by_level = [descriptor_loss(level, image, xy_norm, *labels) for level in maps]
                losses["descriptor"] = torch.stack(by_level).mean()
            else:
                (level,) = maps
                losses["descriptor"] = implicit_descriptor_loss(
                    model.decoder, level, model.image_size, image, xy_norm, *labels, progress
                )
        weights = {"field": config.field_weight, "flow": config.flow_weight, "descriptor": config.descriptor_weight}
        return losses | {"total": torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()}


def field_loss(
    field: nn.Module,
    cost_features: Float[Tensor, "b c hr wr hq wq"],
    pair: Int64[Tensor, " m"],
    reference_xy_norm: Float[Tensor, "m 2"],
    query_xy_norm: Float[Tensor, "m 2"],
    probability: Float[Tensor, " m"],
    generator: Generator,
    config: LossConfig,
) -> Float[Tensor, ""]:
    """Equation 5: cross-entropy of the true match among wrong candidates; the weighted mean over points and directions.

    Each reference point has its true query point among negatives, and each query point its true reference point.
    Random negatives are uniform over the image; hard ones lie in a ring around the true point, perhaps outside.

    field: logits of points as nemf.model.field.Field gives them. It is called pair by pair, since pairs have different
        points: autograd keeps 2 (1 + negatives) evaluations for each match, of 8 KiB each in the published network.
    pair: index of the pair that each match belongs to, 0 <= pair < b.
    probability: of each match to be right, above 0 and at most 1.
    generator: on the CPU, so that all devices draw the same numbers.
    A field that is constant has the loss log(1 + negatives).
    """
    references, queries = (
        torch.cat([true[:, None], _negatives(true, generator, config)], dim=1)
        for true in (reference_xy_norm, query_xy_norm)
    )
    at_reference = torch.cat([reference_xy_norm[:, None].expand_as(queries), references], dim=1)
    at_query = torch.cat([queries, query_xy_norm[:, None].expand_as(references)], dim=1)
    volumes = cost_features.float().split(1)
    logits, order = [], []
    for number in pair.unique().tolist():
        order.append((pair == number).nonzero()[:, 0])
        points = [xy_norm[pair == number].flatten(0, 1)[None] for xy_norm in (at_reference, at_query)]
        logits.append(field(volumes[number], *points, positional_gradient=False))
    candidates = torch.cat(logits, dim=1).float().view(-1, 1 + config.negatives)
    log_likelihood = candidates.log_softmax(dim=1)[:, 0]
    of_candidate = probability[torch.cat(order)].repeat_interleave(2)
    return noisy_loss(log_likelihood, of_candidate, n_candidates=1 + config.negatives)


def flow_loss(
    coarse_flow: Float[Tensor, "b 2 h w"],
    pair: Int64[Tensor, " m"],
    reference_xy_norm: Float[Tensor, "m 2"],
    query_xy_norm: Float[Tensor, "m 2"],
    probability: Float[Tensor, " m"],
) -> Float[Tensor, ""]:
    """Equation 6: the weighted mean distance, in cells, between the coarse flow's displacement and the true one.

    coarse_flow: normalised reference (x, y) of every query cell.
    pair: index of the pair that each match belongs to, 0 <= pair < b.
    probability: of each match to be right, its weight.
    query_xy_norm: within [-1, 1], the centres of the first and last cells.
    The displacement of a match is compared with that of the query cell whose centre is nearest to its query point.
    """
    hw = coarse_flow.shape[2], coarse_flow.shape[3]
    cell = norm_to_px(query_xy_norm, hw).round()
    column, row = cell.long().unbind(-1)
    predicted_norm = coarse_flow[pair, :, row, column].float() - px_to_norm(cell, hw)
    error_norm = predicted_norm - (reference_xy_norm - query_xy_norm)
    cells_per_unit = error_norm.new_tensor([hw[1] - 1, hw[0] - 1]) / 2
    error_cells = torch.linalg.vector_norm(error_norm * cells_per_unit, dim=-1)
    return weighted_mean(error_cells, probability)


def _negatives(true_xy_norm: Float[Tensor, "m 2"], generator: Generator, config: LossConfig) -> Float[Tensor, "m n 2"]:
    """n wrong candidates for each true point: first those uniform over the image, then the hard ones."""
    m, device = len(true_xy_norm), true_xy_norm.device
    n_hard = round(config.hard * config.negatives)
    uniform = torch.rand(m, config.negatives - n_hard, 2, generator=generator).to(device) * 2 - 1
    distance, angle = torch.rand(2, m, n_hard, generator=generator).to(device)
    low, high = HARD_RADIUS_NORM
    distance = low + (high - low) * distance
    angle = 2 * math.pi * angle
    hard = true_xy_norm[:, None] + distance[..., None] * torch.stack([angle.cos(), angle.sin()], dim=-1)
    return torch.cat([uniform, hard], dim=1)
