"""The matching field of one pair: its logits anywhere, as maps over the reference, and the answers read from them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from nemf.coordinates import pixel_grid, px_to_norm, rescale_px
from nemf.matcher import ImagePair
from nemf.matchers.confidence import POINTS_AT_ONCE, point_mass
from nemf.model.network import EncodedField, NeMF
from nemf.model.scorer import FusedScore
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

    def logits(
        self,
        query_xy_norm: Float[Tensor, "k 2"],
        reference_xy_norm: Float[Tensor, "n 2"],
        query_index: Int64[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """The logits of reference points, each at the query point of its index."""
        of_pair = torch.zeros(len(query_xy_norm), dtype=torch.int64, device=self._device)
        scorer = self.model.scorer(self.encoded, of_pair, query_xy_norm, fused=self.fused)
        logits = scorer(reference_xy_norm, query_index).float()
        if self.mirrored is None:
            return logits
        mirror = query_xy_norm.new_tensor([-1, 1])
        scorer = self.model.scorer(self.mirrored, of_pair, query_xy_norm * mirror, fused=self.fused)
        return (logits + scorer(reference_xy_norm * mirror, query_index).float()) / 2

    @torch.no_grad()
    def maps(self, query_xy_norm: Float[Tensor, "k 2"], map_hw: Size) -> Float[Tensor, "k h w"]:
        """The logits of query points at the centres of map_hw cells that tile the reference.

        The centre of a cell that is smaller than a pixel may lie outside the pixels' centres; the nearest place between
        them is scored then.
        """
        hw = self.pair.reference_hw
        centres_xy_px = rescale_px(pixel_grid(map_hw).view(-1, 2), map_hw, hw)
        reference_xy_norm = px_to_norm(centres_xy_px, hw).clamp(-1, 1).to(self._device)
        n = len(reference_xy_norm)
        maps = [reference_xy_norm.new_zeros(0, n)]
        for queries in query_xy_norm.split(POINTS_AT_ONCE):
            index = torch.arange(len(queries), device=self._device).repeat_interleave(n)
            maps.append(self.logits(queries, reference_xy_norm.repeat(len(queries), 1), index).view(-1, n))
        return torch.cat(maps).view(-1, *map_hw)

    @torch.no_grad()
    def answers(self, temperatures: Sequence[float]) -> tuple[Float32[np.ndarray, "k 2"], Float32[np.ndarray, "t k"]]:
        """Where the field has most for each of the pair's points, in pixels of the reference, and the masses of these
        answers at every temperature."""
        hw = self.pair.reference_hw
        first_and_last_px = torch.tensor([[0.0, 0.0], [hw[1] - 1, hw[0] - 1]], device=self._device)
        low_xy, high_xy = rescale_px(first_and_last_px, hw, MASS_MAP_HW)
        query_xy_norm = self.points_norm()
        answers_px = np.zeros((len(query_xy_norm), 2), np.float32)
        masses = np.zeros((len(temperatures), len(query_xy_norm)), np.float32)
        for first in range(0, len(query_xy_norm), POINTS_AT_ONCE):
            some = slice(first, first + POINTS_AT_ONCE)
            count = len(query_xy_norm[some])
            # padded, since kernels round differently by shape
            queries = F.pad(query_xy_norm[some], (0, 0, 0, POINTS_AT_ONCE - count))
            scores = self.maps(queries, MASS_MAP_HW)
            answers_xy = finer_answers(best_cells(scores), self._logits_in_cells(queries), low_xy, high_xy)
            xy_px = rescale_px(answers_xy, MASS_MAP_HW, hw)
            answers_px[some] = xy_px[:count].cpu().numpy()
            for number, temperature in enumerate(temperatures):
                masses[number, some] = point_mass(scores, xy_px, hw, temperature)[:count].cpu().numpy()
        return answers_px, masses

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

    def _logits_in_cells(
        self, query_xy_norm: Float[Tensor, "k 2"]
    ) -> Callable[[Float[Tensor, "k n 2"]], Float[Tensor, "k n"]]:
        """The logits of each query point at places given in cells of a mass map."""
        hw = self.pair.reference_hw

        def logits(places_xy: Float[Tensor, "k n 2"]) -> Float[Tensor, "k n"]:
            places_xy_norm = px_to_norm(rescale_px(places_xy, MASS_MAP_HW, hw), hw).clamp(-1, 1)
            query_index = torch.arange(len(places_xy), device=self._device).repeat_interleave(places_xy.shape[1])
            return self.logits(query_xy_norm, places_xy_norm.flatten(0, 1), query_index).view(places_xy.shape[:2])

        return logits

    @property
    def _device(self) -> torch.device:
        return self.encoded.refined_mean.device
