"""Training of PMNC: how it begins, what is trained, and its loss.

The paper trains a proxy: PatchMatch is left out, and for each annotated point every cell of the other image is scored.
"""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn

from nemf.model.quadrilinear import corners
from nemf.pmnc.correlation import slabs
from nemf.pmnc.network import PMNC, rows_and_columns
from nemf.pmnc.scorer import LocalScorer, WholeConv4d
from nemf.training.batch import Batch
from nemf.training.config import LossConfig
from nemf.training.label_noise import noisy_loss
from nemf.training.parameter_groups import deep_parameters

_GAIN = 20.0
"""The logit of a patch whose correlations are all 1, at the start."""
_SIGMA_CELLS = 1.0
"""How far neighbours that move together count at the start."""
_NOISE = 0.1
"""Scale of the last layer's other random weights at the start: not 0, since nothing before them would be trained."""


@torch.no_grad()
def initialize_at_consensus(model: PMNC) -> None:
    """Initialise the scorer so that its logit is the mean correlation of cells that moved together with the patch's
    middle, weighted by their distance from it; other channels are small and random.

    Random weights match nothing, and their loss takes long to fall.
    """
    first, *later = (layer for layer in model.scorer.layers if isinstance(layer, WholeConv4d))
    first.weight[0, 0] = _moves_together(first.kernel)
    first.bias[0] = 0
    for layer in later:
        layer.weight[0] *= _NOISE
        layer.weight[0, 0] = _moves_together(layer.kernel)
        layer.bias[0] = 0
    last = later[-1] if later else first
    last.weight.mul_(_GAIN)


def _moves_together(side: int) -> Float[Tensor, "side side side side"]:
    """Weights of sum 1: a Gaussian of the step from the middle, where both images take the same one; else 0."""
    step = torch.arange(side) - side // 2
    weight = torch.exp(-(step[:, None] ** 2 + step**2) / (2 * _SIGMA_CELLS**2))
    return torch.diag((weight / weight.sum()).flatten()).view(*4 * (side,))


def parameter_groups(model: PMNC, lr: float, backbone_lr: float | None, loss: LossConfig) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the scorer at `lr`, the backbone's deep layers at `backbone_lr`, if any.

    Sets requires_grad. Raises ValueError for losses of other networks.
    """
    if loss != LossConfig():
        raise ValueError(
            f"PMNC has one loss, without settings: leave those of the losses out; got {loss}, not {LossConfig()}"
        )
    model.requires_grad_(False)
    groups: list[dict[str, Any]] = [{"params": list(model.scorer.parameters()), "lr": lr}]
    if backbone_lr is not None:
        groups.append({"params": deep_parameters(model), "lr": backbone_lr})
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return groups


class PMNCLoss(nn.Module):
    """The network with its loss: one module, so that DistributedDataParallel can wrap it."""

    def __init__(self, model: PMNC, config: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: Batch, generator: Generator, progress: float) -> dict[str, Tensor]:
        """`score`, the mean of the proxy's loss from either image to the other, and `total`, the same; scalars.

        generator, progress: not used; every cell is a candidate, at every step.
        """
        n_pairs = len(batch.reference)
        images = torch.cat([batch.query, batch.reference]).contiguous(memory_format=torch.channels_last)
        query, reference = self.model.features(images).float().split(n_pairs)
        with torch.autocast(images.device.type, enabled=False):  # the filter raises correlations to the third power
            volumes = self.model.volumes(query, reference)
        labels = (batch.pair, batch.probability)
        there = proxy_loss(self.model.scorer, volumes, batch.query_xy_norm, batch.reference_xy_norm, *labels)
        turned = volumes.permute(0, 3, 4, 1, 2)
        back = proxy_loss(self.model.scorer, turned, batch.reference_xy_norm, batch.query_xy_norm, *labels)
        score = (there + back) / 2
        return {"score": score, "total": score}


def proxy_loss(
    scorer: LocalScorer,
    volumes: Float[Tensor, "b hq wq hr wr"],
    query_xy_norm: Float[Tensor, "m 2"],
    reference_xy_norm: Float[Tensor, "m 2"],
    pair: Int64[Tensor, " m"],
    probability: Float[Tensor, " m"],
) -> Float[Tensor, ""]:
    """Cross-entropy of each match among all reference cells; the weighted mean over the matches.

    The logits of a query point are those of the four cells round it, weighted bilinearly; the truth is the four cells
    round the reference point, weighted so (align-corners). What the paper leaves open: no blur, no temperature but the
    scorer's own scale.

    volumes: filtered correlations of b pairs. pair: index of the pair of each match, 0 <= pair < b.
    query_xy_norm, reference_xy_norm: within [-1, 1]. probability: of each match to be right, above 0 and at most 1.
    Where all logits are alike the loss is the logarithm of the number of reference cells.
    """
    query_hw, reference_hw = (volumes.shape[1], volumes.shape[2]), (volumes.shape[3], volumes.shape[4])
    query, truth = corners(query_xy_norm, query_hw), corners(reference_xy_norm, reference_hw)
    by_pair, order = [], []
    for number in pair.unique().tolist():
        mine = (pair == number).nonzero()[:, 0]
        cell = query.cell[mine].flatten()
        around = slabs(volumes[number], cell, scorer.radius)
        scores = scorer.score_slabs(around, rows_and_columns(cell, query_hw), query_hw).float()
        by_pair.append((scores.view(len(mine), 4, -1) * query.weight[mine][..., None]).sum(dim=1))
        order.append(mine)
    matches = torch.cat(order)
    log_share = torch.cat(by_pair).log_softmax(dim=1)
    log_likelihood = (log_share.gather(1, truth.cell[matches]) * truth.weight[matches]).sum(dim=1)
    return noisy_loss(log_likelihood, probability[matches], n_candidates=reference_hw[0] * reference_hw[1])
