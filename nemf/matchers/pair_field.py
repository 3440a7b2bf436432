"""The matching field of one pair: its logits anywhere, as maps over the reference, and the answers read from them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from nemf.coordinates import pixel_grid, px_to_norm, rescale_px
from nemf.matcher import ImagePair
from nemf.matchers.confidence import point_mass
from nemf.model.network import EncodedField, NeMF
from nemf.model.pair_costs import POINTS_AT_ONCE
from nemf.model.quadrilinear import corners, weighted_rows
from nemf.model.scorer import FusedScore, QueryScorer
from nemf.search.pixel_list import Size
from nemf.search.score_peak import best_cells, finer_answers

SCORE_MAP_HW = (64, 64)
MASS_MAP_HW = (32, 32)
PLACES = 128
"""Cells of a mass map whose logits are computed for a query point: those where the refined correlation is greatest. Of
4,471 answers on Animal-Pose's validation pairs none moved by more than half a pixel against scoring all 1,024 cells,
with 64 one in 750, with 32 one in 90."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PairField:
    """The field of a pair of images; where the mirrored images are encoded too, the mean of both fields.

    At most POINTS_AT_ONCE query points are scored together, which bounds the memory.
    """

    model: NeMF
    pair: ImagePair
    encoded: EncodedField
    """Of this pair alone."""
    mirrored: EncodedField | None = None
    fused: FusedScore | None = None
    """The kernel that scores, instead of the model's own operations."""

    def points_norm(self) -> Float[Tensor, "k 2"]:
        """The pair's query points, those outside the image moved to its border."""
        points_px = torch.from_numpy(self.pair.points_inside_px()).to(self._device)
        return px_to_norm(points_px, self.pair.query_hw)

    @torch.no_grad()
    def logits(self, query_xy_norm: Float[Tensor, "2"], reference_xy_norm: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """The logits of reference points at one query point."""
        scores = next(self._scores(query_xy_norm[None]))
        return scores.at_places(reference_xy_norm, _all_of(reference_xy_norm, 1))[0]

    @torch.no_grad()
    def maps(self, query_xy_norm: Float[Tensor, "k 2"], map_hw: Size) -> Float[Tensor, "k h w"]:
        """The logits of query points at the centres of map_hw cells that tile the reference.

        The centre of a cell that is smaller than a pixel may lie outside the pixels' centres; the nearest place between
        them is scored then.
        """
        places_xy_norm = self._cell_centres_norm(map_hw)
        maps = [
            scores.at_places(places_xy_norm, _all_of(places_xy_norm, len(scores.query_xy_norm)))
            for scores in self._scores(query_xy_norm)
        ]
        return torch.cat([query_xy_norm.new_zeros(0, len(places_xy_norm)), *maps]).view(-1, *map_hw)

    @torch.no_grad()
    def answers(self, temperatures: Sequence[float]) -> tuple[Float32[np.ndarray, "k 2"], Float32[np.ndarray, "t k"]]:
        """Where the field has most for each of the pair's points, in pixels of the reference, and the masses of these
        answers at every temperature."""
        hw = self.pair.reference_hw
        first_and_last_px = torch.tensor([[0.0, 0.0], [hw[1] - 1, hw[0] - 1]], device=self._device)
        low_xy, high_xy = rescale_px(first_and_last_px, hw, MASS_MAP_HW)
        answers_px, masses = [np.zeros((0, 2), np.float32)], [np.zeros((len(temperatures), 0), np.float32)]
        places_xy_norm = self._cell_centres_norm(MASS_MAP_HW)
        for scores in self._scores(self.points_norm()):
            count = len(scores.query_xy_norm)
            maps = self._mass_maps(scores, places_xy_norm)
            answers_xy = finer_answers(best_cells(maps), partial(self._in_cells, scores), low_xy, high_xy)
            xy_px = rescale_px(answers_xy, MASS_MAP_HW, hw)
            answers_px.append(xy_px[:count].cpu().numpy())
            of_points = [point_mass(maps, xy_px, hw, temperature)[:count] for temperature in temperatures]
            masses.append(torch.stack(of_points).cpu().numpy())
        return np.concatenate(answers_px), np.concatenate(masses, axis=1)

    @torch.no_grad()
    def masses(self, answers_xy_px: Float[Tensor, "k 2"], temperatures: Sequence[float]) -> Float32[np.ndarray, "t k"]:
        """The masses of answers to the pair's points, given in pixels of the reference, at every temperature."""
        hw, masses = self.pair.reference_hw, [np.zeros((len(temperatures), 0), np.float32)]
        places_xy_norm = self._cell_centres_norm(MASS_MAP_HW)
        for number, scores in enumerate(self._scores(self.points_norm())):
            some_xy_px = answers_xy_px[number * POINTS_AT_ONCE :][: len(scores.query_xy_norm)]
            maps = self._mass_maps(scores, places_xy_norm)[: len(some_xy_px)]
            of_points = [point_mass(maps, some_xy_px, hw, temperature) for temperature in temperatures]
            masses.append(torch.stack(of_points).cpu().numpy())
        return np.concatenate(masses, axis=1)

    def score_maps(self) -> Float32[np.ndarray, "k h w"]:
        """The logits of the pair's points at 64 x 64 cells: a sigmoid would make the great ones equal."""
        return self.maps(self.points_norm(), SCORE_MAP_HW).cpu().numpy()

    def _mass_maps(self, scores: "_Scores", places_xy_norm: Float[Tensor, "n 2"]) -> Float[Tensor, "k h w"]:
        """The logits at the centres of MASS_MAP_HW cells that tile the reference, for POINTS_AT_ONCE points; those past
        the last query point are 0. All but PLACES cells have -infinity, without being scored.

        places_xy_norm: the centres of all cells.
        """
        correlation = _correlation(self.encoded, scores.query_xy_norm, places_xy_norm)
        if self.mirrored is not None:
            mirrored_xy_norm = _mirror(scores.query_xy_norm), _mirror(places_xy_norm)
            correlation = correlation + _correlation(self.mirrored, *mirrored_xy_norm)
        places = correlation.topk(PLACES, dim=1).indices
        logits = torch.full_like(correlation, -torch.inf).scatter(1, places, scores.at_places(places_xy_norm, places))
        # padded, since kernels round differently by shape
        return F.pad(logits, (0, 0, 0, POINTS_AT_ONCE - len(logits))).view(-1, *MASS_MAP_HW)

    def _scores(self, query_xy_norm: Float[Tensor, "k 2"]) -> "Iterator[_Scores]":
        """Scores at the query points, POINTS_AT_ONCE at a time."""
        for queries in query_xy_norm.split(POINTS_AT_ONCE) if len(query_xy_norm) else ():
            scorer = self.model.point_scorer(self.encoded, queries, self.fused)
            mirrored = None
            if self.mirrored is not None:
                mirrored = self.model.point_scorer(self.mirrored, _mirror(queries), self.fused)
            yield _Scores(scorer=scorer, mirrored=mirrored, query_xy_norm=queries)

    def _cell_centres_norm(self, map_hw: Size) -> Float[Tensor, "n 2"]:
        hw = self.pair.reference_hw
        centres_xy_px = rescale_px(pixel_grid(map_hw).view(-1, 2), map_hw, hw)
        return px_to_norm(centres_xy_px, hw).clamp(-1, 1).to(self._device)

    def _in_cells(self, scores: "_Scores", places_xy: Float[Tensor, "k n 2"]) -> Float[Tensor, "k n"]:
        """The logits at places of each query point, given in cells of a mass map; those of padding are 0."""
        hw, count = self.pair.reference_hw, len(scores.query_xy_norm)
        places_xy_norm = px_to_norm(rescale_px(places_xy, MASS_MAP_HW, hw), hw).clamp(-1, 1)
        return F.pad(scores.at_own_places(places_xy_norm[:count]), (0, 0, 0, len(places_xy) - count))

    @property
    def _device(self) -> torch.device:
        return self.encoded.refined_mean.device


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scores:
    """The logits of at most POINTS_AT_ONCE query points; where there is a mirrored field too, the mean of both."""

    scorer: QueryScorer
    mirrored: QueryScorer | None
    query_xy_norm: Float[Tensor, "count 2"]
    """The query points."""

    def at_places(
        self, reference_xy_norm: Float[Tensor, "n 2"], places: Int64[Tensor, "count m"]
    ) -> Float[Tensor, "count m"]:
        """The logits of every query point, each at the reference points that have these indices."""
        logits = self.scorer.at_places(reference_xy_norm, places).float()
        if self.mirrored is None:
            return logits
        return (logits + self.mirrored.at_places(_mirror(reference_xy_norm), places).float()) / 2

    def at_own_places(self, reference_xy_norm: Float[Tensor, "count n 2"]) -> Float[Tensor, "count n"]:
        """The logits of each query point's places."""
        count, n, _ = reference_xy_norm.shape
        index = torch.arange(count, device=reference_xy_norm.device).repeat_interleave(n)
        places_xy_norm = reference_xy_norm.flatten(0, 1)
        logits = self.scorer(places_xy_norm, index).float()
        if self.mirrored is not None:
            logits = (logits + self.mirrored(_mirror(places_xy_norm), index).float()) / 2
        return logits.view(count, n)


def _all_of(places: Tensor, count: int) -> Int64[Tensor, "count n"]:
    """The indices of all places, for each query point."""
    return torch.arange(len(places), device=places.device).expand(count, -1)


def _correlation(
    encoded: EncodedField, query_xy_norm: Float[Tensor, "k 2"], places_xy_norm: Float[Tensor, "n 2"]
) -> Float[Tensor, "k n"]:
    """The refined correlation of query points, at most POINTS_AT_ONCE, at places of the reference: bilinear in both."""
    side = math.isqrt(encoded.refined_mean.shape[2])
    padded = F.pad(query_xy_norm, (0, 0, 0, POINTS_AT_ONCE - len(query_xy_norm)))  # rounded alike for any number
    cell, weight = corners(padded, (side, side))
    of_cells = encoded.refined_mean[0][:, cell.flatten()].float().unflatten(1, cell.shape)
    of_points = (of_cells * weight).sum(dim=2)
    at_places = weighted_rows(of_points, *corners(places_xy_norm, (side, side)))
    return at_places.T[: len(query_xy_norm)]


def _mirror(xy_norm: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    return xy_norm * xy_norm.new_tensor([-1, 1])
