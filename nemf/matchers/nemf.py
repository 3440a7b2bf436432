"""NeMF as a matcher: encode the pair, search the field for every point wanted, refine.

The paper's roles: our query image, which has the points, is its *target*; our reference image, which is searched, its
*source*.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nemf.coordinates import norm_to_px, pixel_grid, px_to_norm
from nemf.matcher import RGB, ImagePair, Match, Matcher
from nemf.model.backbone import tensors_digest
from nemf.model.network import TILE, Encoded, NeMF, initial_field
from nemf.search.noise import pair_key
from nemf.search.patchmatch import patchmatch
from nemf.search.refine import refine
from nemf.search.sample import sample_field

_CODE_VERSION = 1


@dataclass(kw_only=True, frozen=True, slots=True)
class SearchConfig:
    """How the field is searched; the defaults are those of the published code."""

    patchmatch_steps: int = 20
    refine_steps: int = 20
    refine_lr: float = 3e-4
    radius_norm: float = 0.1
    """How far PatchMatch may go from the coarse flow, and refinement from PatchMatch."""
    seed: int = 0


class NemfMatcher(Matcher):
    """Matches by a NeMF network.

    Confidence is the matching score, sigmoid of the field's logit. Points are found on the query's own pixel grid; a
    pair of which only points are wanted computes only what they depend on, with the same answer. A query point outside
    its image is treated as the nearest one inside.
    """

    def __init__(self, name: str, model: NeMF, device: torch.device, search: SearchConfig | None = None) -> None:
        self.name = name
        self.search = search or SearchConfig()
        backbone = [model.backbone.name, asdict(model.backbone.config)]
        sizes = [model.image_size, model.cost_encoder.heads, TILE[device.type]]  # what no tensor tells
        configuration = [_CODE_VERSION, asdict(self.search), backbone, sizes]
        self.fingerprint = tensors_digest(model.state_dict(), configuration)[:16]
        self.device = device
        self.model = model.eval().requires_grad_(False).to(device)

    @torch.no_grad()
    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        return [self._match(pair) for pair in pairs]

    def _match(self, pair: ImagePair) -> Match:
        query_hw, reference_hw = pair.query_rgb.shape[:2], pair.reference_rgb.shape[:2]
        points = np.zeros((0, 2), np.float32) if pair.query_xy_px is None else pair.query_xy_px
        last_px = np.array([query_hw[1] - 1, query_hw[0] - 1], np.float32)
        points_px = torch.from_numpy(np.clip(points, 0, last_px)).to(self.device)
        encoded = self.model.encode(self._squash(pair.reference_rgb), self._squash(pair.query_rgb))
        field_norm = patchmatch(
            partial(self.model.score, encoded),
            initial_field(encoded, query_hw),
            self.search.patchmatch_steps,
            self.search.radius_norm,
            pair_keys=torch.tensor([pair_key(self.search.seed, pair.pair_id)], device=self.device),
            points_px=None if pair.dense else points_px[None],
        )

        def find(query_xy_px: Float[Tensor, "n 2"]) -> tuple[Tensor, Tensor]:
            xy_norm, confidence = self._refine(encoded, field_norm, query_xy_px, query_hw)
            return norm_to_px(xy_norm, reference_hw).cpu(), confidence.cpu()

        reference_xy_px, point_confidence = find(points_px)
        flow_px = flow_confidence = None
        if pair.dense:
            grid_xy_px = pixel_grid(query_hw)
            found_xy_px, confidence = find(grid_xy_px.view(-1, 2).to(self.device))
            flow_px = (found_xy_px.view(*query_hw, 2) - grid_xy_px).numpy()
            flow_confidence = confidence.view(query_hw).numpy()
        return Match(
            reference_xy_px=reference_xy_px.numpy(),
            point_confidence=point_confidence.numpy(),
            flow_px=flow_px,
            flow_confidence=flow_confidence,
        )

    def _squash(self, rgb: RGB) -> Float[Tensor, "1 3 h w"]:
        """The image as the network takes it: normalised first, then brought to its square."""
        image = torch.from_numpy(np.array(rgb)).to(self.device).permute(2, 0, 1)[None] / 255
        normalised = (image - self.model.backbone.mean) / self.model.backbone.std
        size = (self.model.image_size, self.model.image_size)
        return F.interpolate(normalised, size, mode="bicubic", align_corners=True)

    def _refine(
        self,
        encoded: Encoded,
        field_norm: Float[Tensor, "1 2 h w"],
        query_xy_px: Float[Tensor, "n 2"],
        query_hw: tuple[int, int],
    ) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
        """The normalised reference points of query points, and their confidence; in tiles of one size."""
        n_points, tile = len(query_xy_px), TILE[self.device.type]
        if n_points == 0:
            return query_xy_px, query_xy_px[:, 0]
        found_xy_norm, confidence = [], []
        for xy_px in F.pad(query_xy_px, (0, 0, 0, -n_points % tile)).split(tile):
            score = partial(self.model.score, encoded, target_xy_norm=px_to_norm(xy_px, query_hw)[None])
            xy_norm = refine(
                score,
                sample_field(field_norm, xy_px[None]),
                self.search.refine_steps,
                self.search.refine_lr,
                self.search.radius_norm,
            )
            found_xy_norm.append(xy_norm[0])
            confidence.append(score(xy_norm)[0].sigmoid())
        return torch.cat(found_xy_norm)[:n_points], torch.cat(confidence)[:n_points]
