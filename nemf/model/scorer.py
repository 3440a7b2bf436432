"""Scoring source points at target points that are prepared once: the field, with everything constant taken out."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor
from torch.autograd.function import once_differentiable

from nemf.model.field import CostFeatures, Field
from nemf.model.field_inference import Passed, Perceptron
from nemf.model.quadrilinear import corner_slopes, corners, weighted_rows

TILE = {"cpu": 512, "cuda": 16384}
"""Queries are scored in tiles of this one size: matrix products, sines and the like round differently by shape."""

_TILES_AT_ONCE = {"cpu": 8, "cuda": 1}
"""Tiles of which the interpolation is done together: it rounds the same in any shape."""


FusedScore = Callable[..., tuple[Tensor, Tensor | None]]
"""nemf.model.field_triton.score with its weights bound."""


class TargetScorer:
    """Logits of source points at the target points it was made for, which are known by number.

    What depends on the target only is computed here, once: its cells of the cost features and its part of the field's
    first layer. Gradients flow to the source points, and are computed tile by tile along with the logits, so nothing
    of the size of all points' activations is kept. None flow to the weights: to train, call the field itself.

    cost_features: of all pairs.
    pair: (M,) the pair of each target point.
    target_xy_norm: (M, 2).
    positional_gradient: let the gradient flow through the encoding of the source point too; as published it flows only
        through the interpolation of the cost features.
    fused: score by this kernel, from cost features in bfloat16.
    """

    @torch.no_grad()
    def __init__(
        self,
        field: Field,
        cost_features: CostFeatures,
        pair: Int64[Tensor, " m"],
        target_xy_norm: Float[Tensor, "m 2"],
        *,
        positional_gradient: bool = False,
        fused: FusedScore | None = None,
    ) -> None:
        _, channels, *sizes = cost_features.shape
        self._field = field
        self._perceptron = Perceptron(field)
        self._positional_gradient = positional_gradient
        self._fused = fused
        self._source_hw, target_hw = (sizes[0], sizes[1]), (sizes[2], sizes[3])
        self._target_cells = math.prod(target_hw)
        rows = cost_features.movedim(1, -1).reshape(-1, channels).contiguous()
        self._rows = rows if fused is None else rows.bfloat16()
        cell, self._weight = corners(target_xy_norm, target_hw)
        self._row = pair[:, None] * math.prod(sizes) + cell
        padded = _padded(target_xy_norm)
        self._hidden = padded.new_empty(len(padded), field.fc_p.out_features)
        for points, hidden in zip(_tiles(padded), _tiles(self._hidden), strict=True):
            self._perceptron.prepare(field.encode(points), out=hidden)

    def __call__(self, source_xy_norm: Float[Tensor, "n 2"], target: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Logits of N source points, each at the target point of that number; a point's does not depend on others."""
        if torch.is_grad_enabled() and source_xy_norm.requires_grad:
            logits: Tensor = _Differentiable.apply(source_xy_norm, target, self)
            return logits
        if self._fused is not None:
            return self._score_fused(source_xy_norm, target, gradient=False)[0]
        found = [self._score(*chunk) for chunk in _chunks(source_xy_norm, target)]
        return torch.cat([source_xy_norm[:0, 0], *found])[: len(target)]

    def with_gradient(
        self, source_xy_norm: Float[Tensor, "n 2"], target: Int64[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 2"]]:
        """The logits, and their derivatives with respect to the source points."""
        if self._fused is not None:
            logits, gradient = self._score_fused(source_xy_norm, target, gradient=True)
            assert gradient is not None
            return logits, gradient
        found = [self._score_with_gradient(*chunk) for chunk in _chunks(source_xy_norm, target)]
        nothing = source_xy_norm[:0, 0], source_xy_norm[:0]
        all_logits, gradients = (torch.cat(parts) for parts in zip(nothing, *found, strict=True))
        return all_logits[: len(target)], gradients[: len(target)]

    @torch.no_grad()
    def _score(self, source_xy_norm: Float[Tensor, "n 2"], target: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        cell, weight = corners(source_xy_norm, self._source_hw)
        row = cell[:, :, None] * self._target_cells + self._row[target][:, None]
        weights = weight[:, :, None] * self._weight[target][:, None]
        phi = weighted_rows(self._rows, row.flatten(1), weights.flatten(1))
        tiles = zip(_tiles(source_xy_norm), _tiles(target), _tiles(phi), strict=True)
        return torch.cat([self._forward(*tile) for tile in tiles])

    @torch.no_grad()
    def _score_with_gradient(
        self, source_xy_norm: Float[Tensor, "n 2"], target: Int64[Tensor, " n"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 2"]]:
        cell, weight = corners(source_xy_norm, self._source_hw)
        row = cell[:, :, None] * self._target_cells + self._row[target][:, None]
        at_corners = weighted_rows(self._rows, row, self._weight[target][:, None].expand_as(row))
        phi = (at_corners * weight[..., None]).sum(dim=1)
        logits, to_phi, to_code = [], [], []
        for tile in zip(_tiles(source_xy_norm), _tiles(target), _tiles(phi), strict=True):
            passed: Passed = []
            logits.append(self._forward(*tile, passed))
            from_code, from_phi = self._perceptron.backward(passed)
            to_phi.append(from_phi)
            to_code.append(from_code)
        along = (at_corners * torch.cat(to_phi)[:, None]).sum(dim=-1)
        gradient = (corner_slopes(source_xy_norm, self._source_hw) * along[:, None]).sum(dim=-1)
        if self._positional_gradient:
            gradient += self._field.encode_backward(source_xy_norm, torch.cat(to_code))
        return torch.cat(logits), gradient

    @torch.no_grad()
    def _score_fused(self, source_xy_norm: Tensor, target: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor | None]:
        assert self._fused is not None
        return self._fused(
            self._rows,
            self._source_hw,
            self._target_cells,
            source_xy_norm.contiguous(),
            target.contiguous(),
            self._row,
            self._weight,
            self._hidden,
            gradient=gradient,
            positional_gradient=self._positional_gradient,
        )

    def _forward(self, source_xy_norm: Tensor, target: Tensor, phi: Tensor, passed: Passed | None = None) -> Tensor:
        return self._perceptron.forward(self._hidden[target], self._field.encode(source_xy_norm), phi, passed)


class _Differentiable(torch.autograd.Function):
    """TargetScorer.with_gradient, as autograd knows it."""

    @staticmethod
    def forward(ctx: Any, source_xy_norm: Tensor, target: Tensor, scorer: TargetScorer) -> Tensor:
        logits, gradient = scorer.with_gradient(source_xy_norm, target)
        ctx.save_for_backward(gradient)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *to_logits: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * to_logits[0][:, None], None, None


def _padded(values: Tensor) -> Tensor:
    """Filled up with zeros to whole tiles."""
    return F.pad(values, (0, 0) * (values.dim() - 1) + (0, -len(values) % TILE[values.device.type]))


def _tiles(values: Tensor) -> tuple[Tensor, ...]:
    return values.split(TILE[values.device.type])


def _chunks(source_xy_norm: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """A few whole tiles at a time; none of no points."""
    if len(target) == 0:
        return iter(())
    size = _TILES_AT_ONCE[target.device.type] * TILE[target.device.type]
    return zip(_padded(source_xy_norm).split(size), _padded(target).split(size), strict=True)
