"""Nearest neighbours of descriptors at any coordinate: nemf.model.descriptor_decoder."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from nemf.matcher import RGB, ImagePair, Match
from nemf.matchers.deterministic import deterministic
from nemf.matchers.feature_cache import FeatureCache
from nemf.matchers.nearest_neighbour import NearestNeighbourMatcher
from nemf.model.descriptor_decoder import DENSITY, DescriptorDecoder
from nemf.model.descriptors import Descriptors
from nemf.model.image_sizes import cells_a_side


class DecodedMatcher(NearestNeighbourMatcher):
    """Matches by the cosine of decoded descriptors: the query's at the exact point, the reference's at the score cells.

    Feature cells are the network's own, and score cells DENSITY times smaller; both tile the image. Only reference
    images are decoded. window, temperature, image_size: see NearestNeighbourMatcher.
    """

    def __init__(self, name: str, descriptors: Descriptors, device: torch.device, **options: Any) -> None:
        super().__init__(name, descriptors, device, **options)
        assert isinstance(descriptors.decoder, DescriptorDecoder)
        self.decoder = descriptors.decoder
        (side,) = cells_a_side(name, descriptors, self.image_size)
        self.cells_hw = (side, side)
        self.score_hw = (DENSITY * side, DENSITY * side)

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterator[Match]:
        maps = self._cache()
        grids = self._grids(maps)
        pairs_at_once = max(1, self._encode_batch // 2)
        for first in range(0, len(pairs), pairs_at_once):
            group = pairs[first : first + pairs_at_once]
            features = maps.encode([rgb for pair in group for rgb in (pair.query_rgb, pair.reference_rgb)])
            for pair, (query,) in zip(group, features[::2], strict=True):
                ((reference,),) = grids.encode([pair.reference_rgb])
                yield self._match(pair, query, reference)

    @torch.inference_mode()
    def masses(self, pair: ImagePair, temperatures: Sequence[float]) -> tuple[Match, Float32[np.ndarray, "t k"]]:
        """The pair's match, and the mass of each of its points' answers at every temperature."""
        maps = self._cache()
        ((query,),) = maps.encode([pair.query_rgb])
        ((reference,),) = self._grids(maps).encode([pair.reference_rgb])
        points_px = torch.zeros(0, 2) if pair.query_xy_px is None else torch.tensor(pair.query_xy_px)
        _, _, masses = self._search(pair, query, reference, points_px, temperatures)
        return self._match(pair, query, reference), masses.cpu().numpy()

    def _grids(self, maps: FeatureCache) -> FeatureCache:
        """The cache of the decoded images of a call, from that of their maps."""
        return FeatureCache(
            lambda images: [[self._decoded(features)] for (features,) in maps.encode(images)],
            self._kept,
            kind="grid",
            keys=maps.keys,
        )

    @torch.inference_mode()
    def _encoded(self, images: Sequence[RGB]) -> list[Float[Tensor, "c h w"]]:
        """The map of each of some images, which depends on that image alone."""
        return [maps[0][i].clone() for maps, images_hw in self._maps(images) for i in range(len(images_hw))]

    @torch.inference_mode()
    def _decoded(self, features: Float[Tensor, "c h w"]) -> Float[Tensor, "c hs ws"]:
        """The unit descriptors of an image's score cells."""
        with deterministic():
            return F.normalize(self.decoder.grid(features[None])[0], dim=0)

    def _cosines(
        self, query: Float[Tensor, "c h w"], reference: Float[Tensor, "c hs ws"], query_xy: Float[Tensor, "k 2"]
    ) -> Float[Tensor, "k hs ws"]:
        image = torch.zeros(len(query_xy), dtype=torch.long, device=query.device)
        with deterministic():
            descriptor = F.normalize(self.decoder(query[None], image, query_xy), dim=1)
        return (descriptor @ reference.flatten(1)).view(-1, *self.score_hw)

    def _upsample(self, cosine: Float[Tensor, "k hs ws"]) -> Float[Tensor, "k hs ws"]:
        """The cosines, which are of the score cells already."""
        return cosine
