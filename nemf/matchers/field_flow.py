"""Dense flow of a field that is a map: nodes are matched, made a map (nemf.flow_map), and interpolated to pixels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from nemf.calibration import Calibration
from nemf.coordinates import norm_to_px, pixel_grid, px_to_norm
from nemf.matcher import ImagePair, Points
from nemf.matchers.confidence import flow_mass, mass_maps
from nemf.matchers.field_search import FieldSearch
from nemf.matchers.mirrored import Mirror
from nemf.model.network import EncodedField
from nemf.search.coarse_to_fine import on_grid
from nemf.search.pixel_list import Size
from nemf.search.sample import sample_field

_TEMPERATURE = 0.13
"""Of the softmax of the refined correlation. Chosen on Animal-Pose's validation pairs, with nemf-small: the masses are
then about those of the field, and the line that is fitted to those holds for a flow."""
_LIKENESS_CELLS = 20
"""With twice as many, 6 of 100 pairs of Animal-Pose's validation images choose the other way, all of which hardly
prefer either; it takes a quarter of the time."""

Flow = tuple[Float32[np.ndarray, "_ _ 2"], Float32[np.ndarray, "_ _"]]
"""The displacement (dx, dy) of every query pixel, in pixels, and its confidence, 0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldFlow:
    """Makes flows of encoded pairs.

    The true flow of an object that faces the other way mirrors it, and no map of its nodes does. So the mirrored query
    is encoded too, and the flow is that of whichever image makes the better map (`likeness_to_a_map`).
    """

    search: FieldSearch
    calibration: Calibration

    def flows(
        self,
        encoded: EncodedField,
        pairs: Sequence[ImagePair],
        answers_px: Sequence[Float32[np.ndarray, "_ 2"]],
        encode: Callable[[Sequence[ImagePair]], EncodedField],
        mirror: Mirror,
    ) -> list[Flow]:
        """The flow of each of the pairs.

        answers_px: of the pairs' points, in pixels of the reference; the map has these at the points as nearly as its
            nodes allow.
        encode: encodes pairs, here with mirrored queries.
        """
        turned = [mirror.query(pair) for pair in pairs]
        ways = ((encoded, pairs), (encode(turned), turned))
        likeness = [
            [likeness_to_a_map(mean, pair) for mean, pair in zip(batch.refined_mean, of_batch, strict=True)]
            for batch, of_batch in ways
        ]
        chosen = [int(of_turned > of_upright) for of_upright, of_turned in zip(*likeness, strict=True)]
        seen = [ways[way][1][index] for index, way in enumerate(chosen)]
        encoded = EncodedField.concatenate([ways[way][0].select(i, i + 1) for i, way in enumerate(chosen)])
        flows = []
        for index, nodes_px in enumerate(self._node_maps(encoded, seen, answers_px)):
            answer_px, confidence = self._answers(encoded.select(index, index + 1), seen[index], nodes_px)
            if chosen[index]:
                answer_px, confidence = answer_px[:, ::-1], confidence[:, ::-1]
            flow_px = answer_px - pixel_grid(pairs[index].query_hw).numpy()
            flows.append((flow_px, np.ascontiguousarray(confidence)))
        return flows

    def _node_maps(
        self, encoded: EncodedField, pairs: Sequence[ImagePair], answers_px: Sequence[Float32[np.ndarray, "_ 2"]]
    ) -> list[Float[Tensor, "_ _ 2"]]:
        """Where in the reference the nodes of each pair are, made a map."""
        device = encoded.refined_mean.device
        grids = [_nodes_hw(pair.query_hw, self.search.config.flow_nodes) for pair in pairs]
        nodes_xy = [pixel_grid(hw).view(-1, 2).to(device) for hw in grids]
        fields = self.search.on_grids(encoded, pairs, grids, [None] * len(pairs), (1,))
        query = [px_to_norm(xy, hw) for xy, hw in zip(nodes_xy, grids, strict=True)]
        start = [sample_field(field[None], xy[None])[0] for field, xy in zip(fields, nodes_xy, strict=True)]
        refined = self.search.refine(encoded, query, start)
        per_pair = zip(pairs, answers_px, grids, refined, strict=True)
        return [_node_map(pair, points_px, hw, *nodes) for pair, points_px, hw, nodes in per_pair]

    @torch.no_grad()
    def _answers(self, encoded: EncodedField, pair: ImagePair, nodes_px: Float[Tensor, "gh gw 2"]) -> Flow:
        """The reference (x, y) of every query pixel, and its confidence. encoded: of this pair alone."""
        confidence = flow_confidence(encoded, pair, nodes_px, self.calibration)
        hw = pair.query_hw
        return upsample(nodes_px, hw).numpy(), upsample(confidence[..., None], hw)[..., 0].numpy()


def flow_confidence(
    encoded: EncodedField, pair: ImagePair, answers_xy_px: Float[Tensor, "gh gw 2"], calibration: Calibration
) -> Float[Tensor, "gh gw"]:
    """The confidence of answers to the pixels of a grid over the query image, as align-corners.

    encoded: of this pair alone. Its refined correlation has a map of the reference for every query cell, and each pixel
    of the grid reads the masses of the four cells round it, at the place where its answer is
    (nemf.matchers.confidence.flow_mass). They are those of the field nearly, without scoring it.
    """
    side = math.isqrt(encoded.refined_mean.shape[2])
    cells_hw = (side, side)
    scores = encoded.refined_mean[0].T.unflatten(1, cells_hw).contiguous()
    maps = mass_maps(scores.float(), pair.reference_hw, _TEMPERATURE).cpu()
    grid_hw = answers_xy_px.shape[0], answers_xy_px.shape[1]
    nodes_xy_px = norm_to_px(px_to_norm(pixel_grid(grid_hw).view(-1, 2), grid_hw), pair.query_hw)
    mass = flow_mass(maps, cells_hw, nodes_xy_px, answers_xy_px.view(-1, 2), pair.query_hw, pair.reference_hw)
    return torch.from_numpy(calibration.confidence(mass.numpy()).astype(np.float32)).view(grid_hw)


def upsample(values: Float[Tensor, "_ _ c"], hw: Size) -> Float[Tensor, "h w c"]:
    """Values at all pixels of an image, interpolated between those of a grid over it (bilinear, align-corners)."""
    if values.shape[:2] == hw:
        return values
    maps = F.interpolate(values.permute(2, 0, 1)[None], hw, mode="bilinear", align_corners=True)
    return maps[0].permute(1, 2, 0).contiguous()


def likeness_to_a_map(refined_mean: Float[Tensor, "reference query"], pair: ImagePair) -> float:
    """How well the best matches of the query's cells make a map: the mean of their correlations, each times how far the
    match agrees with the map of all (nemf.flow_map), 0..1.

    refined_mean: the refined correlation of this pair, of square grids of cells whose outermost ones are centred on the
        images' edges. Of the query, cells in every n-th row and column are taken, _LIKENESS_CELLS a side or a few more.
    """
    from nemf import flow_map  # here, since SciPy takes long to import

    side = math.isqrt(refined_mean.shape[1])
    step = max(side // _LIKENESS_CELLS, 1)
    query_px, reference_px = (
        norm_to_px(px_to_norm(pixel_grid((side, side)), (side, side)), hw) for hw in (pair.query_hw, pair.reference_hw)
    )
    query_px = query_px[::step, ::step]
    some = refined_mean.unflatten(1, (side, side))[:, ::step, ::step].float()
    correlation, best = (values.cpu() for values in some.max(dim=0))
    match_px = reference_px.flatten(0, 1)[best]
    sureness = correlation.clamp(0, 1).double().numpy()
    _, agreement = flow_map.smoothed((match_px - query_px).numpy(), sureness, pair.reference_hw)
    return float((sureness * agreement).mean())


def _node_map(
    pair: ImagePair,
    answers_px: Points,
    grid_hw: Size,
    reference_xy_norm: Float[Tensor, "n 2"],
    logit: Float[Tensor, " n"],
) -> Float[Tensor, "gh gw 2"]:
    """The map that the answers of nodes make, with the answers of the pair's points: places in the reference."""
    from nemf import flow_map  # as above

    query_hw, reference_hw = pair.query_hw, pair.reference_hw
    nodes_xy_px = norm_to_px(px_to_norm(pixel_grid(grid_hw), grid_hw), query_hw)
    reference_xy_px = norm_to_px(reference_xy_norm.cpu(), reference_hw).view(*grid_hw, 2)
    points_px = pair.points_inside_px()
    smooth_px, _ = flow_map.smoothed(
        (reference_xy_px - nodes_xy_px).numpy(),
        logit.cpu().view(grid_hw).numpy(),
        reference_hw,
        on_grid(torch.from_numpy(points_px), query_hw, grid_hw).numpy(),
        answers_px - points_px,
    )
    return nodes_xy_px + torch.from_numpy(smooth_px).float()


def _nodes_hw(hw: Size, nodes: int) -> Size:
    """The grid over an image that has so many nodes along the longer side, as far apart along the other, if there are
    so many pixels."""
    step = max(max(hw) / nodes, 1)
    height, width = (max(round(side / step), min(side, 2)) for side in hw)
    return height, width
