"""Training of LPMFlow: how it begins, what is trained, and its losses.

Where this departs from the published training: it begins at the correlation of its backbone's features instead of at
random weights; each of the four correlations is asked for the matches, by their cross-entropy, not only the flow: where
a correlation is wrong and sure, its flow, a mean place, hardly changes with it; cells near a point count more than
those farther away, where all within 17 of 512 pixels count alike; the weight of the contrast loss is constant, where it
falls from epoch to epoch; and no position is added to the source in training only.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nemf.coordinates import norm_to_px, px_to_norm, rescale_px
from nemf.lpmflow.network import LPMFlow
from nemf.lpmflow.tokens import MapTokens
from nemf.lpmflow.window import ChannelGate, WindowBlock, as_map
from nemf.model.attention import Attention, Mlp
from nemf.model.quadrilinear import corners
from nemf.training.batch import Batch
from nemf.training.config import LossConfig
from nemf.training.descriptor_loss import descriptor_loss
from nemf.training.label_noise import noisy_loss, weighted_mean

TEMPERATURE = 0.02
"""Of the cosine of two cells' features in the attention that training begins with."""
MATCH_TEMPERATURE = 0.1
"""Of a correlation in its loss: five times that of the flow's soft-argmax. A correlation that is as sure as it is right
by this one has, by the other, a flow that points to what is likeliest, not to the mean of all that is likely."""
REACH_CELLS = 4
"""Cells of the flow, on every side of the one nearest to a point, that are asked for the point's match; in a flow of
128 cells, those within 17 of 512 pixels, as published."""
REPLACED = 16
AMONG = 4
"""REPLACED tokens of the source are replaced, out of 1 / AMONG of its cells: those most like both whole images."""
CONTRAST_TEMPERATURE = 0.1


@torch.no_grad()
def initialize_at_features(model: LPMFlow) -> None:
    """Initialise everything behind the backbone to pass its features on: the flow is their soft nearest neighbour.

    Whatever adds to the tokens starts at 0, and the queries and keys of each cross attention are the tokens themselves.
    Random attention matches nothing, and its flow has no gradient to speak of.
    """
    if isinstance(model.backbone, MapTokens):
        nn.init.orthogonal_(model.backbone.proj.weight)
        nn.init.zeros_(model.backbone.proj.bias)
    for part in (model.encoder, model.coarse_decoder, model.mixed_decoder, model.fine_decoder):
        for module in part.modules():
            if isinstance(module, Attention):
                _silence(module.proj)
            if isinstance(module, Mlp):
                _silence(module.fc2)
    for decoder in (model.coarse_decoder, model.mixed_decoder, model.fine_decoder):
        attention = decoder.cross_attention
        dim = attention.proj.in_features
        # q.k / sqrt(d) is then d cos / (sqrt(d) TEMPERATURE sqrt(d)) of a head's d channels
        scale = (TEMPERATURE * (dim // attention.heads) ** 0.5) ** -0.5
        for rows in (slice(0, dim), slice(dim, 2 * dim)):
            attention.qkv.weight[rows] = scale * torch.eye(dim)
            attention.qkv.bias[rows] = 0
    for block in model.upsampler.modules():
        if isinstance(block, WindowBlock):
            nn.init.zeros_(block.norm_out.weight)
        if isinstance(block, ChannelGate):
            nn.init.zeros_(block.fc2.weight)
    if model.integration is not None:
        _silence(model.integration.conv2)


def _silence(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)


def parameter_groups(model: LPMFlow, lr: float, backbone_lr: float | None, loss: LossConfig) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the backbone at `backbone_lr`, all else at `lr`. Sets requires_grad.

    Without backbone_lr the backbone is frozen; with it, its batch normalisation still is. What projects its maps to
    tokens is no part of it. Raises ValueError for losses that train nothing.
    """
    if not loss.flow_weight and not loss.descriptor_weight:
        raise ValueError(
            "LPMFlow is trained by the losses of its flow and descriptors: flow_weight or descriptor_weight "
            "must be above 0"
        )
    model.requires_grad_(False)
    backbone = model.backbone.backbone if isinstance(model.backbone, MapTokens) else model.backbone
    of_backbone = [
        parameter
        for module in backbone.modules()
        if not isinstance(module, _BatchNorm)
        for parameter in module.parameters(recurse=False)
    ]
    every_of_backbone = set(backbone.parameters())
    reached = model if loss.flow_weight else model.backbone
    head = [parameter for parameter in reached.parameters() if parameter not in every_of_backbone]
    groups: list[dict[str, Any]] = [{"params": head, "lr": lr}] if head else []
    if backbone_lr is not None:
        groups.append({"params": of_backbone, "lr": backbone_lr})
    if not groups:
        raise ValueError("descriptor_weight alone would train nothing: the backbone, whose tokens it reads, is frozen")
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    return groups


class LPMFlowLoss(nn.Module):
    """The network with its losses: one module, so that DistributedDataParallel can wrap it."""

    def __init__(self, model: LPMFlow, config: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, batch: Batch, generator: Generator, progress: float) -> dict[str, Tensor]:
        """Those whose weight is not 0, and their weighted sum as `total`; scalars.

        `descriptor` is that of the backbone's tokens, `flow` the mean distance in the flow's cells; with it comes
        `match`, the mean cross-entropy of the four correlations, whose weight is 1, and, with its own, `contrast`.
        progress: not used.

        The distance counts in sides of the flow: in cells, its gradient is so much longer than the others' that the
        step is nearly its alone.
        """
        model, config, device = self.model, self.config, batch.query.device
        points = (batch.pair, batch.query_xy_norm, batch.reference_xy_norm, batch.probability)
        hw = (model.image_size, model.image_size)
        losses, total = {}, torch.zeros((), device=device)
        source, target = model.tokens(batch.query), model.tokens(batch.reference)
        if config.descriptor_weight:
            losses["descriptor"] = token_loss(source, target, batch, hw)
            total = total + config.descriptor_weight * losses["descriptor"]
        if not config.flow_weight:
            return losses | {"total": total}
        # dropout draws from the global generator: its numbers are to depend on the step alone
        seed = int(torch.randint(2**62, (1,), generator=generator))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            replaced = None
            if config.contrast_weight:
                source, replaced = replace_tokens(source, target, generator)
            encoded = model.encode_tokens(source, target)
        by_correlation = [match_loss(correlation, *points, hw) for correlation in encoded.correlations]
        losses["match"] = torch.stack(by_correlation).mean()
        losses["flow"] = flow_error(encoded.flow, *points, hw)
        total = total + losses["match"] + config.flow_weight * losses["flow"] / encoded.flow.shape[-1]
        if replaced is not None:
            losses["contrast"] = contrast_loss(encoded.encoder_source.float(), replaced)
            total = total + config.contrast_weight * losses["contrast"]
        return losses | {"total": total}


def token_loss(
    source: Float[Tensor, "b token dim"], target: Float[Tensor, "b token dim"], batch: Batch, seen_hw: tuple[int, int]
) -> Float[Tensor, ""]:
    """The descriptor loss (nemf.training.descriptor_loss) of the backbone's tokens of query and reference images.

    Cells tile the image; points beyond the centres of the outermost count as at these.
    """
    maps = as_map(torch.cat([source, target]))
    hw = (maps.shape[2], maps.shape[3])
    xy_norm = torch.cat([batch.query_xy_norm, batch.reference_xy_norm])
    place_norm = px_to_norm(rescale_px(norm_to_px(xy_norm, seen_hw), seen_hw, hw), hw).clamp(-1, 1)
    image = torch.cat([batch.pair, len(source) + batch.pair])
    return descriptor_loss(maps, image, place_norm, batch.keypoint.repeat(2), batch.probability.repeat(2))


def match_loss(
    correlation: Float[Tensor, "b source target"],
    pair: Int64[Tensor, " m"],
    query_xy_norm: Float[Tensor, "m 2"],
    reference_xy_norm: Float[Tensor, "m 2"],
    probability: Float[Tensor, " m"],
    seen_hw: tuple[int, int],
) -> Float[Tensor, ""]:
    """Cross-entropy of each match among all target cells, by softmax(correlation / MATCH_TEMPERATURE); weighted mean.

    The logits of a point are those of the four source cells round it, weighted bilinearly; the truth is the four target
    cells round its match, weighted so. Cells tile the image; beyond the centres of the outermost, those count alone.
    pair, probability, seen_hw: as in `flow_error`. A constant correlation has the loss log(target).
    """
    around = []
    for xy_norm, cells in zip((query_xy_norm, reference_xy_norm), correlation.shape[1:], strict=True):
        hw = (math.isqrt(cells), math.isqrt(cells))
        place_norm = px_to_norm(rescale_px(norm_to_px(xy_norm, seen_hw), seen_hw, hw), hw)
        around.append(corners(place_norm.clamp(-1, 1), hw))
    query, truth = around
    rows = correlation[pair[:, None], query.cell].float() / MATCH_TEMPERATURE
    log_share = (rows * query.weight[..., None]).sum(dim=1).log_softmax(dim=1)
    log_likelihood = (log_share.gather(1, truth.cell) * truth.weight).sum(dim=1)
    return noisy_loss(log_likelihood, probability, n_candidates=correlation.shape[2])


def flow_error(
    flow: Float[Tensor, "b 2 h w"],
    pair: Int64[Tensor, " m"],
    query_xy_norm: Float[Tensor, "m 2"],
    reference_xy_norm: Float[Tensor, "m 2"],
    probability: Float[Tensor, " m"],
    seen_hw: tuple[int, int],
) -> Float[Tensor, ""]:
    """The weighted mean distance, in cells of the flow, between the displacement of each match and the flow round it.

    The cells within REACH_CELLS of the one nearest to the query point are asked; one that is d cells away along an axis
    counts 1 - d / (REACH_CELLS + 1) times.
    pair: index of the pair that each match belongs to. probability: of each match to be right, its weight.
    seen_hw: size of the images that the network is given.
    """
    hw = flow.shape[2], flow.shape[3]
    query, reference = (
        rescale_px(norm_to_px(xy_norm, seen_hw), seen_hw, hw) for xy_norm in (query_xy_norm, reference_xy_norm)
    )
    step = torch.arange(-REACH_CELLS, REACH_CELLS + 1, device=flow.device)
    offset = torch.stack(torch.meshgrid(step, step, indexing="xy"), dim=-1).view(1, -1, 2)
    near = (1 - offset.abs() / (REACH_CELLS + 1)).prod(dim=-1)
    cell = query.round().long()[:, None] + offset
    last = cell.new_tensor([hw[1] - 1, hw[0] - 1])
    is_inside = ((cell >= 0) & (cell <= last)).all(dim=-1)
    column, row = cell.clamp(min=0).minimum(last).unbind(-1)
    predicted = flow[pair[:, None], :, row, column].float()
    error = torch.linalg.vector_norm(predicted - (reference - query)[:, None], dim=-1)
    weight = near * is_inside
    return weighted_mean((error * weight).sum(dim=1) / weight.sum(dim=1), probability)


@torch.no_grad()
def _replaceable(source: Float[Tensor, "b token dim"], target: Float[Tensor, "b token dim"]) -> Int64[Tensor, "b n"]:
    """The cells of the source, numbered from 0, that are most like the tokens of both whole images."""
    unit = [_unit(tokens.float()) for tokens in (source, target)]
    likeness = torch.einsum("bnd,bd->bn", unit[0][:, 1:], unit[0][:, 0] + unit[1][:, 0])
    return likeness.topk(likeness.shape[1] // AMONG, dim=1).indices


def replace_tokens(
    source: Float[Tensor, "b token dim"], target: Float[Tensor, "b token dim"], generator: Generator
) -> tuple[Float[Tensor, "b token dim"], Int64[Tensor, "b k"]]:
    """The source's tokens with some of its cells' replaced by the sum of the tokens of both whole images.

    Returns which cells too, numbered from 0, REPLACED of each image: drawn from those that are most like both images,
    so that the encoder must tell from their neighbours what they showed. generator: on the CPU.
    """
    candidates = _replaceable(source, target)
    n = candidates.shape[1]
    order = torch.stack([torch.randperm(n, generator=generator)[:REPLACED] for _ in source]).to(candidates.device)
    cells = candidates.gather(1, order)
    of_images = (source[:, 0] + target[:, 0]).detach()
    index = (1 + cells)[..., None].expand(-1, -1, source.shape[2])
    return source.scatter(1, index, of_images[:, None].expand(-1, index.shape[1], -1)), cells


def contrast_loss(encoded: Float[Tensor, "b token dim"], cells: Int64[Tensor, "b k"]) -> Float[Tensor, ""]:
    """InfoNCE of the cells' encoded tokens: each with the mean of its up to 8 neighbours, against the other cells.

    No gradient flows to the neighbours. k equal tokens, whose neighbours equal them too, have the loss log k.
    """
    grid = as_map(encoded).detach()
    ones = torch.ones_like(grid[:, :1])
    sums, counts = (9 * F.avg_pool2d(values, 3, stride=1, padding=1) - values for values in (grid, ones))
    index = cells[..., None].expand(-1, -1, encoded.shape[2])
    anchor = _unit(encoded[:, 1:].gather(1, index))
    positive = _unit((sums / counts).flatten(2).transpose(1, 2).gather(1, index))
    logits = torch.einsum("bkd,bld->bkl", anchor, anchor)
    own = (anchor * positive).sum(dim=-1)
    logits = torch.where(torch.eye(cells.shape[1], dtype=torch.bool, device=cells.device), own[..., None], logits)
    number = torch.arange(cells.shape[1], device=cells.device).expand(len(cells), -1)
    return F.cross_entropy((logits / CONTRAST_TEMPERATURE).flatten(0, 1), number.flatten())


def _unit(vectors: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n dim"]:
    return vectors / (vectors.square().sum(dim=-1, keepdim=True) + 1e-6).sqrt()
