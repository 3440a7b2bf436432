"""The identity: every point keeps its relative position. A lower bound for comparisons of quality and of time."""

from collections.abc import Sequence

import numpy as np
import torch

from nemf.coordinates import pixel_grid, rescale_px
from nemf.matcher import ImagePair, Match, Matcher


class IdentityMatcher(Matcher):
    """Matches every point to its own coordinates, rescaled to the reference image."""

    def __init__(self) -> None:
        self.name = "identity"
        self.fingerprint = "identity-1"

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        """One Match per pair, without reading a pixel; confidence is 1, whether right or wrong."""
        return [self._match(pair) for pair in pairs]

    def _match(self, pair: ImagePair) -> Match:
        query_hw, reference_hw = pair.query_rgb.shape[:2], pair.reference_rgb.shape[:2]
        points = np.zeros((0, 2), np.float32) if pair.query_xy_px is None else pair.query_xy_px
        flow_px = None
        if pair.dense:
            grid_xy_px = pixel_grid(query_hw)
            flow_px = (rescale_px(grid_xy_px, query_hw, reference_hw) - grid_xy_px).numpy()
        return Match(
            reference_xy_px=rescale_px(torch.from_numpy(points), query_hw, reference_hw).numpy(),
            point_confidence=np.ones(len(points), np.float32),
            flow_px=flow_px,
            flow_confidence=np.ones(query_hw, np.float32) if pair.dense else None,
        )


def build(name: str, *, backbone_weights: None, device: torch.device) -> IdentityMatcher:
    """The matcher called 'identity', which needs no device."""
    return IdentityMatcher()
