"""The NeMF network: `encode` once per pair of images, then `score` pairs of points as often as the search wants.

Neural Matching Fields for Semantic Correspondence, Hong et al., NeurIPS 2022. The names are the paper's: the field
lives on the *target* and answers with places in the *source*.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from nemf.model.backbone import Backbone
from nemf.model.cost_encoder import CostEncoder, soft_argmax
from nemf.model.field import Field
from nemf.model.neck import Neck
from nemf.model.scorer import FusedScore, TargetScorer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedField:
    """What the search needs to know of a batch of pairs. Cells are numbered row by row."""

    refined_mean: Float[Tensor, "b source target"]
    """How well source cells suit target cells: the refined correlation's mean over its channels."""
    cost_features: Float[Tensor, "b channel hs ws ht wt"]
    """What the field interpolates."""

    def pairs(self, first: int, last: int) -> "EncodedField":
        """Those from `first` up to, not including, `last`."""
        return EncodedField(refined_mean=self.refined_mean[first:last], cost_features=self.cost_features[first:last])

    @staticmethod
    def joined(batches: Sequence["EncodedField"]) -> "EncodedField":
        """One batch of all pairs. The channels of its cost features are adjacent in memory, for fast interpolation."""
        return EncodedField(
            refined_mean=torch.cat([batch.refined_mean for batch in batches]),
            cost_features=torch.cat([batch.cost_features.movedim(1, -1) for batch in batches]).movedim(-1, 1),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded(EncodedField):
    """All that the network knows of a batch of pairs."""

    features_source: list[Tensor]
    """Feature maps (B, c_l, h_l, w_l) of the source images."""
    features_target: list[Tensor]
    """Feature maps of the target images."""
    correlation: Float[Tensor, "b embedding source target"]
    """Embedded correlation after soft mutual nearest neighbour: source cells x target cells."""
    refined: Float[Tensor, "b embedding source target"]
    """The correlation refined by the transformer."""
    coarse_flow: Float[Tensor, "b 2 h w"]
    """Normalised source (x, y) of every target cell, as trained by the flow loss."""


class NeMF(nn.Module):
    """A backbone, a cost encoder and a field that fit together; nemf.model.presets builds them from a configuration.

    neck: makes the maps that are correlated out of the backbone's; without one, as published, those are correlated.
    image_size: side of the square images the network takes, in pixels.
    """

    def __init__(
        self,
        backbone: Backbone,
        cost_encoder: CostEncoder,
        field: Field,
        *,
        neck: Neck | None = None,
        image_size: int = 256,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
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
        return self.encode_features(self.features(source), self.features(target))

    def features(self, image: Float[Tensor, "b 3 h w"]) -> list[Tensor]:
        """The maps (b, c_l, h_l, w_l) to correlate, shallow to deep, of images normalised as the backbone wants."""
        maps = self.backbone(image)
        return maps if self.neck is None else self.neck(maps)

    def encode_features(self, features_source: list[Tensor], features_target: list[Tensor]) -> Encoded:
        """What `encode` gives, from the feature maps of both images."""
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
        encoded: EncodedField,
        source_xy_norm: Float[Tensor, "_ _ _"],
        target_xy_norm: Float[Tensor, "_ _ _"],
        *,
        positional_gradient: bool = False,
    ) -> Float[Tensor, "b n"]:
        """The logit of how well each source point suits its target point; its sigmoid is the matching score.

        source_xy_norm, target_xy_norm: (B, N, 2). A point's logit does not depend on the other points nor on the batch.
        positional_gradient: let the gradient with respect to the source points flow through their encoding too. As
            published it flows only through the interpolation of the cost features.
        No gradient flows to the target points and the weights: to train, call `field`.
        Raises ValueError where batches or numbers of points differ.
        """
        expected = (len(encoded.cost_features), source_xy_norm.shape[1], 2)
        if source_xy_norm.shape != expected or target_xy_norm.shape != expected:
            raise ValueError(
                f"points of {expected[0]} encoded pairs must have shape {expected}; got source "
                f"{tuple(source_xy_norm.shape)}, target {tuple(target_xy_norm.shape)}"
            )
        pair = torch.arange(expected[0], device=source_xy_norm.device).repeat_interleave(expected[1])
        scorer = self.scorer(encoded, pair, target_xy_norm.flatten(0, 1), positional_gradient=positional_gradient)
        number = torch.arange(len(pair), device=pair.device)
        return scorer(source_xy_norm.flatten(0, 1), number).view(expected[:2])

    def scorer(
        self,
        encoded: EncodedField,
        pair: Int64[Tensor, " m"],
        target_xy_norm: Float[Tensor, "m 2"],
        positional_gradient: bool = False,
        fused: FusedScore | None = None,
    ) -> TargetScorer:
        """`score` at target points of the encoded pairs that are prepared once, see TargetScorer."""
        return TargetScorer(
            self.field,
            encoded.cost_features,
            pair,
            target_xy_norm,
            positional_gradient=positional_gradient,
            fused=fused,
        )


def squash(
    rgb: UInt8[Tensor, "_ _ 3"], mean: Float[Tensor, "3 1 1"], std: Float[Tensor, "3 1 1"], image_size: int
) -> Float[Tensor, "3 s s"]:
    """An image as a network takes it: normalised first, then brought to its square (bicubic, align-corners)."""
    normalised = (rgb.permute(2, 0, 1)[None] / 255 - mean) / std
    return F.interpolate(normalised, (image_size, image_size), mode="bicubic", align_corners=True)[0]


def initial_field(encoded: EncodedField, target_hw: tuple[int, int]) -> Float[Tensor, "b 2 h w"]:
    """Where the search starts: the normalised source (x, y) of every pixel of targets of size `target_hw`."""
    mean = encoded.refined_mean
    centres = torch.linspace(-1, 1, math.isqrt(mean.shape[-1]), device=mean.device, dtype=mean.dtype)
    coarse = soft_argmax(mean, centres, centres)
    return F.interpolate(coarse, target_hw, mode="bilinear", align_corners=True)
