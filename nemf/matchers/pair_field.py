"""The matching field of one pair: its logits anywhere, as maps over the reference, and the answers read from them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from nemf.coordinates import pixel_grid, px_to_norm, rescale_px
from nemf.matcher import ImagePair
from nemf.matchers.confidence import point_mass
from nemf.model.network import EncodedField, NeMF
from nemf.model.pair_costs import POINTS_AT_ONCE
from nemf.model.scorer import FusedScore, QueryScorer
from nemf.search.pixel_list import Size
from nemf.search.score_peak import best_cells, finer_answers

SCORE_MAP_HW = (64, 64)
MASS_MAP_HW = (32, 32)


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
        return scores.at_places(reference_xy_norm)[0]

    @torch.no_grad()
    def maps(self, query_xy_norm: Float[Tensor, "k 2"], map_hw: Size) -> Float[Tensor, "k h w"]:
        """The logits of query points at the centres of map_hw cells that tile the reference.

        The centre of a cell that is smaller than a pixel may lie outside the pixels' centres; the nearest place between
        them is scored then.
        """
        places_xy_norm = self._cell_centres_norm(map_hw)
        maps = [scores.at_places(places_xy_norm) for scores in self._scores(query_xy_norm)]
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
            count = scores.count
            # padded, since kernels round differently by shape
            maps = F.pad(scores.at_places(places_xy_norm), (0, 0, 0, POINTS_AT_ONCE - count)).view(-1, *MASS_MAP_HW)
            answers_xy = finer_answers(best_cells(maps), partial(self._in_cells, scores), low_xy, high_xy)
            xy_px = rescale_px(answers_xy, MASS_MAP_HW, hw)
            answers_px.append(xy_px[:count].cpu().numpy())
            of_points = [point_mass(maps, xy_px, hw, temperature)[:count] for temperature in temperatures]
            masses.append(torch.stack(of_points).cpu().numpy())
        return np.concatenate(answers_px), np.concatenate(masses, axis=1)

    @torch.no_grad()
    def masses(self, answers_xy_px: Float[Tensor, "k 2"], temperatures: Sequence[float]) -> Float32[np.ndarray, "t k"]:
        """The masses of answers to the pair's points, given in pixels of the reference, at every temperature."""
        query_xy_norm = self.points_norm()
        masses = np.zeros((len(temperatures), len(query_xy_norm)), np.float32)
        for first in range(0, len(query_xy_norm), POINTS_AT_ONCE):
            some = slice(first, first + POINTS_AT_ONCE)
            scores = self.maps(query_xy_norm[some], MASS_MAP_HW)
            for number, temperature in enumerate(temperatures):
                mass = point_mass(scores, answers_xy_px[some], self.pair.reference_hw, temperature)
                masses[number, some] = mass.cpu().numpy()
        return masses

    def score_maps(self) -> Float32[np.ndarray, "k h w"]:
        """The logits of the pair's points at 64 x 64 cells: a sigmoid would make the great ones equal."""
        return self.maps(self.points_norm(), SCORE_MAP_HW).cpu().numpy()

    def _scores(self, query_xy_norm: Float[Tensor, "k 2"]) -> "Iterator[_Scores]":
        """Scores at the query points, POINTS_AT_ONCE at a time."""
        for queries in query_xy_norm.split(POINTS_AT_ONCE) if len(query_xy_norm) else ():
            scorer = self.model.point_scorer(self.encoded, queries, self.fused)
            mirrored = None
            if self.mirrored is not None:
                mirrored = self.model.point_scorer(self.mirrored, _mirror(queries), self.fused)
            yield _Scores(scorer=scorer, mirrored=mirrored, count=len(queries))

    def _cell_centres_norm(self, map_hw: Size) -> Float[Tensor, "n 2"]:
        hw = self.pair.reference_hw
        centres_xy_px = rescale_px(pixel_grid(map_hw).view(-1, 2), map_hw, hw)
        return px_to_norm(centres_xy_px, hw).clamp(-1, 1).to(self._device)

    def _in_cells(self, scores: "_Scores", places_xy: Float[Tensor, "k n 2"]) -> Float[Tensor, "k n"]:
        """The logits at places of each query point, given in cells of a mass map; those of padding are 0."""
        hw = self.pair.reference_hw
        places_xy_norm = px_to_norm(rescale_px(places_xy, MASS_MAP_HW, hw), hw).clamp(-1, 1)
        return F.pad(scores.at_own_places(places_xy_norm[: scores.count]), (0, 0, 0, len(places_xy) - scores.count))

    @property
    def _device(self) -> torch.device:
        return self.encoded.refined_mean.device


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scores:
    """The logits of at most POINTS_AT_ONCE query points; where there is a mirrored field too, the mean of both."""

    scorer: QueryScorer
    mirrored: QueryScorer | None
    count: int
    """Number of query points."""

    def at_places(self, reference_xy_norm: Float[Tensor, "n 2"]) -> Float[Tensor, "count n"]:
        """The logits of the same places for every query point."""
        logits = self.scorer.at_places(reference_xy_norm, self.count).float()
        if self.mirrored is None:
            return logits
        return (logits + self.mirrored.at_places(_mirror(reference_xy_norm), self.count).float()) / 2

    def at_own_places(self, reference_xy_norm: Float[Tensor, "count n 2"]) -> Float[Tensor, "count n"]:
        """The logits of each query point's places."""
        count, n, _ = reference_xy_norm.shape
        index = torch.arange(count, device=reference_xy_norm.device).repeat_interleave(n)
        places_xy_norm = reference_xy_norm.flatten(0, 1)
        logits = self.scorer(places_xy_norm, index).float()
        if self.mirrored is not None:
            logits = (logits + self.mirrored(_mirror(places_xy_norm), index).float()) / 2
        return logits.view(count, n)


def _mirror(xy_norm: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    return xy_norm * xy_norm.new_tensor([-1, 1])
