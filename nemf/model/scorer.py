"""Scores of reference points at query points that are prepared once: the field, with all that is constant taken out."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from nemf.model.field import Field
from nemf.model.field_inference import InferenceLayers, ReluMasks
from nemf.model.quadrilinear import corner_slopes, corners, weighted_rows

TILE = {"cpu": 512, "cuda": 16384}
"""Number of points of a tile, the same for all: matrix products, sines and others round differently by shape."""

_CHUNK_TILES = {"cpu": 8, "cuda": 1}
"""Number of tiles whose cost features are interpolated together: interpolation rounds the same in any shape."""


FusedScore = Callable[..., tuple[Tensor, Tensor | None]]
"""nemf.model.field_triton.score with its weights bound."""


class CostTable(NamedTuple):
    """Cost features, and where those of each of M query points are among them."""

    rows: Float[Tensor, "row c"]
    """One row for every reference cell and each of some places of the query; first those of a pair."""
    reference_hw: tuple[int, int]
    reference_step: int
    """Number of rows from one reference cell to the next."""
    row: Int64[Tensor, "m 4"]
    """The rows of a query point's four places with its pair's first reference cell."""
    weight: Float[Tensor, "m 4"]
    """The weights of these places."""

    @staticmethod
    def of_cells(
        features: Float[Tensor, "b hq wq hr wr c"], pair: Int64[Tensor, " m"], query_xy_norm: Float[Tensor, "m 2"]
    ) -> "CostTable":
        """The features of all query cells of all pairs of images, of which each query point reads four, bilinear.

        pair: the index of each query point's pair.
        """
        sizes = features.shape[1:5]
        cell, weight = corners(query_xy_norm, (sizes[0], sizes[1]))
        row = pair[:, None] * math.prod(sizes) + cell * (sizes[2] * sizes[3])
        rows = features.reshape(-1, features.shape[5]).contiguous()
        return CostTable(rows, (sizes[2], sizes[3]), 1, row, weight)

    @staticmethod
    def of_points(features: Float[Tensor, "r m c"], reference_hw: tuple[int, int]) -> "CostTable":
        """The features of the query points themselves."""
        n_points = features.shape[1]
        row = torch.arange(n_points, device=features.device)[:, None].repeat(1, 4)
        weight = F.pad(features.new_ones(n_points, 1), (0, 3))
        return CostTable(features.flatten(0, 1), reference_hw, n_points, row, weight)


class QueryScorer:
    """Logits of reference points, each at one of the M query points that the scorer was made for.

    This is what matching runs. It must agree with nemf.model.field.Field.forward, its definition.

    What depends on the query point only is computed here, once: its cells of the cost features and its part of the
    field's first layer. Gradients flow to the reference points and are computed tile by tile along with the logits, so
    no activation of all points is kept. None flow to the weights: to train, call the field itself.

    table: of these query points.
    query_xy_norm: (M, 2).
    positional_gradient: let the gradient flow through the encoding of the reference point too; as published it flows
        only through the interpolation of the cost features.
    fused: score by this kernel, from cost features in bfloat16.
    """

    @torch.no_grad()
    def __init__(
        self,
        field: Field,
        table: CostTable,
        query_xy_norm: Float[Tensor, "m 2"],
        *,
        positional_gradient: bool = False,
        fused: FusedScore | None = None,
    ) -> None:
        self._field = field
        self._layers = InferenceLayers(field)
        self._positional_gradient = positional_gradient
        self._fused = fused
        self._reference_hw, self._reference_step = table.reference_hw, table.reference_step
        self._rows = table.rows if fused is None else table.rows.bfloat16()
        self._row, self._weight = table.row, table.weight
        padded = _padded(query_xy_norm)
        self._hidden = padded.new_empty(len(padded), field.fc_p.out_features)
        for points, hidden in zip(_tiles(padded), _tiles(self._hidden), strict=True):
            self._layers.query_part(field.encode(points), out=hidden)

    def __call__(
        self, reference_xy_norm: Float[Tensor, "n 2"], query_index: Int64[Tensor, " n"], /
    ) -> Float[Tensor, " n"]:
        """Logits of N reference points, each at the query point of that index, independent of the other points."""
        if torch.is_grad_enabled() and reference_xy_norm.requires_grad:
            logits: Tensor = _Differentiable.apply(reference_xy_norm, query_index, self)
            return logits
        if self._fused is not None:
            return self._score_fused(reference_xy_norm, query_index, gradient=False)[0]
        chunks = [self._score(*chunk) for chunk in _chunks(reference_xy_norm, query_index)]
        return torch.cat([reference_xy_norm[:0, 0], *chunks])[: len(query_index)]

    @torch.no_grad()
    def at_places(
        self, reference_xy_norm: Float[Tensor, "n 2"], places: Int64[Tensor, "count m"]
    ) -> Float[Tensor, "count m"]:
        """Logits at the first query points, each at the M of N reference points that have these indices; for a table
        of the query points.

        What a reference point has alike for all query points is computed once.
        """
        count, n_places = places.shape
        if self._fused is not None:
            index = torch.arange(count, device=places.device).repeat_interleave(n_places)
            return self(reference_xy_norm[places.flatten()], index).view(count, n_places)
        padded = _padded(reference_xy_norm)
        by_reference = torch.cat([self._field.encode(tile) @ self._layers.reference_weight for tile in _tiles(padded)])
        features = self._rows.view(-1, self._reference_step * self._rows.shape[1])
        phi = weighted_rows(features, *corners(reference_xy_norm, self._reference_hw))
        phi = phi.view(len(reference_xy_norm), self._reference_step, -1)
        logits = [reference_xy_norm[:0, 0]]
        points_of_tile = max(TILE[places.device.type] // n_places, 1)
        for first in range(0, count, points_of_tile):
            point = torch.arange(first, min(first + points_of_tile, count), device=places.device)
            hidden = by_reference[places[point]].add_(self._hidden[point, None])
            of_points = phi[places[point], point[:, None]]
            tiles = zip(*(_tiles(_padded(part.flatten(0, 1))) for part in (hidden, of_points)), strict=True)
            logits.append(torch.cat([self._layers.forward(*tile) for tile in tiles])[: len(point) * n_places])
        return torch.cat(logits).view(count, n_places)

    def with_gradient(
        self, reference_xy_norm: Float[Tensor, "n 2"], query_index: Int64[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 2"]]:
        """The logits, and their derivatives by the reference points."""
        if self._fused is not None:
            logits, gradient = self._score_fused(reference_xy_norm, query_index, gradient=True)
            assert gradient is not None
            return logits, gradient
        chunks = [self._score_with_gradient(*chunk) for chunk in _chunks(reference_xy_norm, query_index)]
        empty = reference_xy_norm[:0, 0], reference_xy_norm[:0]
        all_logits, gradients = (torch.cat(parts) for parts in zip(empty, *chunks, strict=True))
        return all_logits[: len(query_index)], gradients[: len(query_index)]

    @torch.no_grad()
    def _score(self, reference_xy_norm: Float[Tensor, "n 2"], query_index: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        cell, weight = corners(reference_xy_norm, self._reference_hw)
        row = cell[:, :, None] * self._reference_step + self._row[query_index][:, None]
        weights = weight[:, :, None] * self._weight[query_index][:, None]
        phi = weighted_rows(self._rows, row.flatten(1), weights.flatten(1))
        tiles = zip(_tiles(reference_xy_norm), _tiles(query_index), _tiles(phi), strict=True)
        return torch.cat([self._forward(*tile) for tile in tiles])

    @torch.no_grad()
    def _score_with_gradient(
        self, reference_xy_norm: Float[Tensor, "n 2"], query_index: Int64[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 2"]]:
        cell, weight = corners(reference_xy_norm, self._reference_hw)
        row = cell[:, :, None] * self._reference_step + self._row[query_index][:, None]
        at_corners = weighted_rows(self._rows, row, self._weight[query_index][:, None].expand_as(row))
        phi = (at_corners * weight[..., None]).sum(dim=1)
        logits, grad_phi, grad_encoding = [], [], []
        for tile in zip(_tiles(reference_xy_norm), _tiles(query_index), _tiles(phi), strict=True):
            relu_masks: ReluMasks = []
            logits.append(self._forward(*tile, relu_masks))
            tile_grad_encoding, tile_grad_phi = self._layers.backward(relu_masks)
            grad_phi.append(tile_grad_phi)
            grad_encoding.append(tile_grad_encoding)
        grad_weight = (at_corners * torch.cat(grad_phi)[:, None]).sum(dim=-1)
        gradient = (corner_slopes(reference_xy_norm, self._reference_hw) * grad_weight[:, None]).sum(dim=-1)
        if self._positional_gradient:
            gradient += self._field.encode_backward(reference_xy_norm, torch.cat(grad_encoding))
        return torch.cat(logits), gradient

    @torch.no_grad()
    def _score_fused(
        self, reference_xy_norm: Tensor, query_index: Tensor, *, gradient: bool
    ) -> tuple[Tensor, Tensor | None]:
        assert self._fused is not None
        return self._fused(
            self._rows,
            self._reference_hw,
            self._reference_step,
            reference_xy_norm.contiguous(),
            query_index.contiguous(),
            self._row,
            self._weight,
            self._hidden,
            gradient=gradient,
            positional_gradient=self._positional_gradient,
        )

    def _forward(
        self, reference_xy_norm: Tensor, query_index: Tensor, phi: Tensor, relu_masks: ReluMasks | None = None
    ) -> Tensor:
        hidden = self._hidden[query_index]
        hidden.addmm_(self._field.encode(reference_xy_norm), self._layers.reference_weight)
        return self._layers.forward(hidden, phi, relu_masks)


class _Differentiable(torch.autograd.Function):
    """QueryScorer.with_gradient as a function of autograd."""

    @staticmethod
    def forward(ctx: Any, reference_xy_norm: Tensor, query_index: Tensor, scorer: QueryScorer) -> Tensor:
        logits, gradient = scorer.with_gradient(reference_xy_norm, query_index)
        ctx.save_for_backward(gradient)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_logits: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_logits[0][:, None], None, None


def _padded(values: Tensor) -> Tensor:
    """The tensor padded with zeros to whole tiles."""
    padding = -len(values) % TILE[values.device.type]
    return F.pad(values, (0, 0) * (values.dim() - 1) + (0, padding)) if padding else values


def _tiles(values: Tensor) -> tuple[Tensor, ...]:
    return values.split(TILE[values.device.type])


def _chunks(reference_xy_norm: Tensor, query_index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The points and indices, a few whole tiles at a time; empty if there are no points."""
    if len(query_index) == 0:
        return iter(())
    size = _CHUNK_TILES[query_index.device.type] * TILE[query_index.device.type]
    return zip(_padded(reference_xy_norm).split(size), _padded(query_index).split(size), strict=True)
