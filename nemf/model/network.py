"""The NeMF network: `encode` once per pair of images, then `score` pairs of points as often as the search wants.

Neural Matching Fields for Semantic Correspondence, Hong et al., NeurIPS 2022. The names are the paper's: the field
lives on the *target* and answers with places in the *source*.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nemf.model.backbone import Backbone
from nemf.model.cost_encoder import CostEncoder, soft_argmax
from nemf.model.field import Field

TILE = {"cpu": 512, "cuda": 65536}
"""Queries are scored in tiles of this one size: kernels round differently for different shapes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded:
    """What the network knows of a batch of pairs. Cells are numbered row by row."""

    features_source: list[Tensor]
    """Feature maps (B, c_l, h_l, w_l) of the source images."""
    features_target: list[Tensor]
    """Feature maps of the target images."""
    correlation: Float[Tensor, "b channel source target"]
    """Embedded correlation after soft mutual nearest neighbour: source cells x target cells."""
    refined: Float[Tensor, "b channel source target"]
    """The correlation refined by the transformer."""
    refined_mean: Float[Tensor, "b source target"]
    """Its mean over the channels."""
    coarse_flow: Float[Tensor, "b 2 h w"]
    """Normalised source (x, y) of every target cell, as trained by the flow loss."""
    cost_features: Float[Tensor, "b channel hs ws ht wt"]
    """What the field interpolates."""


class NeMF(nn.Module):
    """A backbone, a cost encoder and a field that fit together; nemf.model.presets builds them from a configuration.

    image_size: side of the square images the network takes, in pixels.
    """

    def __init__(self, backbone: Backbone, cost_encoder: CostEncoder, field: Field, *, image_size: int = 256) -> None:
        super().__init__()
        self.backbone = backbone
        self.cost_encoder = cost_encoder
        self.field = field
        self.image_size = image_size

    def encode(self, source: Float[Tensor, "_ _ _ _"], target: Float[Tensor, "_ _ _ _"]) -> Encoded:
        """Everything that depends on the images only.

        source, target: (B, 3, image_size, image_size), normalised as the backbone wants, finite.
        Raises ValueError for other sizes, batches that differ, and values that are not finite.
        """
        for role, image in (("source", source), ("target", target)):
            expected = (len(source), 3, self.image_size, self.image_size)
            if image.shape != expected:
                raise ValueError(f"{role} images must have shape {expected}; got {tuple(image.shape)}")
            if not image.isfinite().all():
                raise ValueError(f"{role} images must be finite; got NaN or infinity")
        features_source, features_target = self.backbone(source), self.backbone(target)
        correlation = self.cost_encoder.correlate(features_source, features_target)
        refined = self.cost_encoder.refine(correlation, features_source, features_target)
        refined_mean = refined.mean(dim=1)
        return Encoded(
            features_source=features_source,
            features_target=features_target,
            correlation=correlation,
            refined=refined,
            refined_mean=refined_mean,
            coarse_flow=self.cost_encoder.coarse_flow(refined_mean),
            cost_features=self.field.cost_features(refined, refined_mean),
        )

    def score(
        self,
        encoded: Encoded,
        source_xy_norm: Float[Tensor, "_ _ _"],
        target_xy_norm: Float[Tensor, "_ _ _"],
        *,
        positional_gradient: bool = False,
    ) -> Float[Tensor, "b n"]:
        """The logit of how well each source point suits its target point; its sigmoid is the matching score.

        source_xy_norm, target_xy_norm: (B, N, 2). A point's logit does not depend on the other points nor on the batch.
        positional_gradient: let the gradient with respect to the coordinates flow through their encoding too. As
            published it flows only through the interpolation of the cost features.
        Raises ValueError where batches or numbers of points differ.
        """
        expected = (len(encoded.cost_features), source_xy_norm.shape[1], 2)
        if source_xy_norm.shape != expected or target_xy_norm.shape != expected:
            raise ValueError(
                f"points of {expected[0]} encoded pairs must have shape {expected}; got source "
                f"{tuple(source_xy_norm.shape)}, target {tuple(target_xy_norm.shape)}"
            )
        if source_xy_norm.shape[1] == 0:
            return source_xy_norm[..., 0]
        return torch.stack(
            [
                self._score_pair(features[None], source, target, positional_gradient)
                for features, source, target in zip(encoded.cost_features, source_xy_norm, target_xy_norm, strict=True)
            ]
        )

    def _score_pair(
        self,
        cost_features: Float[Tensor, "1 c hs ws ht wt"],
        source_xy_norm: Float[Tensor, "n 2"],
        target_xy_norm: Float[Tensor, "n 2"],
        positional_gradient: bool,
    ) -> Float[Tensor, " n"]:
        n_points = len(source_xy_norm)
        tile = TILE[cost_features.device.type]
        padding = (0, 0, 0, -n_points % tile)
        tiles = zip(F.pad(source_xy_norm, padding).split(tile), F.pad(target_xy_norm, padding).split(tile), strict=True)
        logits = [
            self.field(cost_features, source[None], target[None], positional_gradient=positional_gradient)[0]
            for source, target in tiles
        ]
        return torch.cat(logits)[:n_points]


def initial_field(encoded: Encoded, target_hw: tuple[int, int]) -> Float[Tensor, "b 2 h w"]:
    """Where the search starts: the normalised source (x, y) of every pixel of targets of size `target_hw`."""
    side = encoded.coarse_flow.shape[-1]
    centres = torch.linspace(-1, 1, side, device=encoded.refined_mean.device, dtype=encoded.refined_mean.dtype)
    coarse = soft_argmax(encoded.refined_mean, centres, centres)
    return F.interpolate(coarse, target_hw, mode="bilinear", align_corners=True)
