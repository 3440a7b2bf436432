"""The PMNC network: a backbone whose features are correlated, and the local scorer of the correlation's patches."""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nemf.model.backbone import Backbone, build_backbone
from nemf.model.correlation import correlate, normalise, soft_mutual_nearest_neighbour
from nemf.pmnc.correlation import FilteredCorrelation
from nemf.pmnc.patchmatch import CellMatches, match_cells
from nemf.pmnc.presets import PMNCConfig
from nemf.pmnc.scorer import LocalScorer

PATCHES_AT_ONCE = 512
SLABS_AT_ONCE = 16
"""Patches and slabs are scored in batches of these sizes, padded: kernels round differently by shape."""


class PMNC(nn.Module):
    """A backbone and a local scorer.

    image_size: side of the square images the network takes, in pixels. feature_size: cells a side of its features.
    """

    def __init__(self, backbone: Backbone, scorer: LocalScorer, *, image_size: int, feature_size: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.scorer = scorer
        self.image_size = image_size
        self.feature_size = feature_size

    @property
    def cells_hw(self) -> tuple[int, int]:
        """Rows and columns of the feature maps. The first and last cells lie on the image's first and last pixels."""
        return self.feature_size, self.feature_size

    def features(self, images: Float[Tensor, "*_"]) -> Float[Tensor, "b c h w"]:
        """Unit features of every cell: the backbone's maps after a ReLU, each at unit length, one after the other.

        Raises ValueError for images of another shape, or not finite.
        """
        size = self.image_size
        if images.dim() != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(f"images must have shape (B, 3, {size}, {size}); got {tuple(images.shape)}")
        if not images.isfinite().all():
            raise ValueError("images must be finite; some values are NaN or infinite")
        maps = [normalise(F.relu(level)) for level in self.backbone(images)]
        resized = [F.interpolate(level, self.cells_hw, mode="bilinear", align_corners=True) for level in maps]
        return normalise(torch.cat(resized, dim=1))

    def volumes(
        self, query: Float[Tensor, "b c h w"], reference: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, "b h w h w"]:
        """The filtered correlations of pairs as whole volumes, through which gradients flow."""
        correlation = correlate(query, reference)[:, 0]
        cells = correlation.flatten(3).flatten(1, 2)[:, None]
        return soft_mutual_nearest_neighbour(cells)[:, 0].view(correlation.shape)

    def correlation(self, query: Float[Tensor, "c h w"], reference: Float[Tensor, "c h w"]) -> FilteredCorrelation:
        """The filtered correlation of one pair, from the features of its images."""
        return FilteredCorrelation(query, reference, self.scorer.radius)

    def match_cells(self, correlation: FilteredCorrelation, iterations: int, offset: bool) -> CellMatches:
        """The best reference cell of each query cell by PatchMatch from the best correlations."""
        hw = correlation.query_hw, correlation.reference_hw
        return match_cells(partial(self.score, correlation), correlation.best, *hw, iterations, offset)

    @torch.no_grad()
    def score(
        self, correlation: FilteredCorrelation, query: Int64[Tensor, " n"], reference: Int64[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        """The scores of query cells each with a reference cell, numbered row by row."""
        if not len(query):
            return correlation.slabs(query)[:, 0, 0, 0, 0]
        hw = correlation.query_hw, correlation.reference_hw
        padding = -len(query) % PATCHES_AT_ONCE
        batches = (F.pad(cells, (0, padding)).split(PATCHES_AT_ONCE) for cells in (query, reference))
        scores = [
            self.scorer.score_patches(
                correlation.patches(some_query, some_reference),
                rows_and_columns(some_query, hw[0]),
                rows_and_columns(some_reference, hw[1]),
                *hw,
            )
            for some_query, some_reference in zip(*batches, strict=True)
        ]
        return torch.cat(scores)[: len(query)]

    @torch.no_grad()
    def score_maps(self, correlation: FilteredCorrelation, query: Int64[Tensor, " m"]) -> Float[Tensor, "m h w"]:
        """The scores of query cells with all reference cells."""
        if not len(query):
            return correlation.slabs(query)[:, 0, 0]
        hw = correlation.query_hw
        padded = F.pad(query, (0, -len(query) % SLABS_AT_ONCE))
        maps = [
            self.scorer.score_slabs(correlation.slabs(some), rows_and_columns(some, hw), hw)
            for some in padded.split(SLABS_AT_ONCE)
        ]
        return torch.cat(maps)[: len(query)]


def rows_and_columns(cell: Int64[Tensor, " n"], hw: tuple[int, int]) -> Int64[Tensor, "n 2"]:
    """Row and column of cells that are numbered row by row."""
    return torch.stack([cell // hw[1], cell % hw[1]], dim=-1)


def build(config: PMNCConfig, backbone: Backbone | None = None) -> PMNC:
    """The network of these sizes, with random weights, in eval mode.

    backbone: one that is loaded already, as `config` describes it; by default it gets random weights.
    Raises ValueError for sizes that cannot be.
    """
    scorer = LocalScorer(config.kernels, config.channels)
    backbone = backbone or build_backbone(config.backbone, config.backbone_config)
    return PMNC(backbone, scorer, image_size=config.image_size, feature_size=config.feature_size).eval()
