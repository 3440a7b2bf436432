"""The search of the fields of many pairs at once: PatchMatch on grids over the query images, then refinement."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from nemf.matcher import ImagePair
from nemf.model.network import EncodedField, NeMF, initial_field
from nemf.model.scorer import TILE, FusedScore
from nemf.search.coarse_to_fine import pixel_grids, sample_coarse
from nemf.search.config import SearchConfig
from nemf.search.counter_rng import pair_key
from nemf.search.patchmatch import counter_uniform, search_pixels
from nemf.search.pixel_list import Size
from nemf.search.refine import refine


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSearch:
    """Searches fields with the settings of a configuration."""

    model: NeMF
    config: SearchConfig
    fused: FusedScore | None = None
    """The kernel that scores, instead of the model's own operations."""

    @torch.no_grad()
    def on_grids(
        self,
        encoded: EncodedField,
        pairs: Sequence[ImagePair],
        sizes: Sequence[Size],
        points_px: Sequence[Float[Tensor, "_ 2"] | None],
        strides: Sequence[int],
    ) -> list[Float[Tensor, "2 _ _"]]:
        """The normalised reference (x, y) of the best match of each pixel of the last grid, for each pair.

        sizes: of the query images as they are searched; points and strides are in their pixels.
        points_px: only the pixels that these are read from are searched, and valid; None for all pixels.
        """
        config, device = self.config, encoded.refined_mean.device
        keys = torch.tensor([pair_key(config.seed, pair.pair_id) for pair in pairs], device=device)
        grids = pixel_grids(sizes, points_px, strides, config.patchmatch_steps, device)
        fields: list[Tensor] = []
        for level, pixels in enumerate(grids):
            initial = [initial_field(encoded.select(i, i + 1), hw)[0] for i, hw in enumerate(pixels.sizes)]
            best_xy_norm = search_pixels(
                self.model.scorer(encoded, pixels.image, pixels.xy_norm(), fused=self.fused),
                pixels,
                pixels.gather(initial),
                config.patchmatch_steps,
                config.radius_norm,
                partial(counter_uniform, keys + level, pixels),
                start_xy_norm=sample_coarse(fields, pixels) if fields else None,
                radius_decay=config.radius_decay,
                neighbour_offset=config.neighbour_offset,
            )
            fields = pixels.scatter(best_xy_norm, initial)
        return fields

    @torch.no_grad()
    def refine(
        self, encoded: EncodedField, query_xy_norm: Sequence[Float[Tensor, "_ 2"]], start_xy_norm: Sequence[Tensor]
    ) -> list[tuple[Float[Tensor, "_ 2"], Float[Tensor, " _"]]]:
        """Refined reference points of each pair's query points, and the field's logits there."""
        counts = [len(xy_norm) for xy_norm in query_xy_norm]
        pair_index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        xy_norm, logit = self._refine(
            encoded,
            pair_index.to(encoded.refined_mean.device),
            torch.cat(list(query_xy_norm)),
            torch.cat(list(start_xy_norm)),
        )
        return list(zip(xy_norm.split(counts), logit.split(counts), strict=True))

    def _refine(
        self,
        encoded: EncodedField,
        pair: Int64[Tensor, " n"],
        query_xy_norm: Float[Tensor, "n 2"],
        start_xy_norm: Float[Tensor, "n 2"],
    ) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
        n_points, config = len(pair), self.config
        scorer = self.model.scorer(
            encoded, pair, query_xy_norm, positional_gradient=config.positional_gradient, fused=self.fused
        )
        query_index = torch.arange(n_points, device=pair.device)
        # on a CPU the steps of the optimiser round by position in a vector, unless all vectors have one length
        tile_size = TILE["cpu"] if pair.device.type == "cpu" else max(n_points, 1)
        query_index = F.pad(query_index, (0, -n_points % tile_size))
        refined_xy_norm, logits = [start_xy_norm[:0]], [start_xy_norm[:0, 0]]

        def score(index: Int64[Tensor, " n"], reference_xy_norm: Float[Tensor, "1 n 2"], /) -> Float[Tensor, "1 n"]:
            return scorer(reference_xy_norm[0], index)[None]

        for tile in query_index.split(tile_size):
            tile_score = partial(score, tile)
            refined = refine(
                tile_score, start_xy_norm[None, tile], config.refine_steps, config.refine_lr, config.radius_norm
            )
            refined_xy_norm.append(refined[0])
            logits.append(tile_score(refined)[0])
        return torch.cat(refined_xy_norm)[:n_points], torch.cat(logits)[:n_points]
