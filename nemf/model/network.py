"""The NeMF network: `encode` once per pair of images, then `score` pairs of points as often as the search needs.

Neural Matching Fields for Semantic Correspondence, Hong et al., NeurIPS 2022.

Roles: the field lives on the *query* image, whose points are given, and answers with points in the *reference* image,
which is searched. The paper calls the query *target* and the reference *source*. Its words stay in NeMF.encode,
NeMF.score and Encoded, which other code calls by these names, and in the names of two branches of nemf.model.conv4d,
which checkpoints hold; nemf.official translates the authors' checkpoints.
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
from nemf.model.scorer import FusedScore, QueryScorer


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedField:
    """The part of a batch of encoded pairs that the search reads. Cells are numbered row by row."""

    refined_mean: Float[Tensor, "b reference query"]
    """The refined correlation's mean over its channels: how well each reference cell matches each query cell."""
    cost_features: Float[Tensor, "b channel hr wr hq wq"]
    """The volumes that the field interpolates."""

    def select(self, first: int, last: int) -> "EncodedField":
        """The pairs from `first` up to, not including, `last`."""
        return EncodedField(refined_mean=self.refined_mean[first:last], cost_features=self.cost_features[first:last])

    @staticmethod
    def concatenate(batches: Sequence["EncodedField"]) -> "EncodedField":
        """One batch of all pairs. The channels of its cost features are adjacent in memory, for fast interpolation."""
        return EncodedField(
            refined_mean=torch.cat([batch.refined_mean for batch in batches]),
            cost_features=torch.cat([batch.cost_features.movedim(1, -1) for batch in batches]).movedim(-1, 1),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Encoded(EncodedField):
    """Everything that the network computes of a batch of pairs."""

    features_source: list[Tensor]
    """Feature maps (B, c_l, h_l, w_l) of the reference images."""
    features_target: list[Tensor]
    """Feature maps of the query images."""
    correlation: Float[Tensor, "b embedding reference query"]
    """Embedded correlation after soft mutual nearest neighbour: reference cells x query cells."""
    refined: Float[Tensor, "b embedding reference query"]
    """The correlation refined by the transformer."""
    coarse_flow: Float[Tensor, "b 2 h w"]
    """Normalised reference (x, y) of every query cell, as trained by the flow loss."""


class NeMF(nn.Module):
    """A backbone, a cost encoder and a field that fit together; nemf.model.presets builds them from a configuration.

    neck: turns the backbone's maps into those that are correlated; without one, as published, they are the same.
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

        source, target: reference and query images, (B, 3, image_size, image_size), normalised as the backbone wants,
            finite. Matching calls `features` once per image and `encode_features` once per pair instead.
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

    def encode_features(self, reference_features: list[Tensor], query_features: list[Tensor]) -> Encoded:
        """The result of `encode`, computed from the feature maps of both images."""
        correlation = self.cost_encoder.correlate(reference_features, query_features)
        refined = self.cost_encoder.refine(correlation, reference_features, query_features)
        refined_mean = refined.mean(dim=1)
        return Encoded(
            features_source=reference_features,
            features_target=query_features,
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
        """The logit of how well each reference point matches its query point; its sigmoid is the matching score.

        source_xy_norm, target_xy_norm: reference and query points, (B, N, 2). A point's logit depends neither on the
            other points nor on the batch.
        positional_gradient: let the gradient by the reference points flow through their encoding too. As published it
            flows only through the interpolation of the cost features.
        No gradient flows to the query points and the weights: to train, call `field`. The search keeps a `scorer`
        instead, so that its query points are prepared once.
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
        query_index = torch.arange(len(pair), device=pair.device)
        return scorer(source_xy_norm.flatten(0, 1), query_index).view(expected[:2])

    def scorer(
        self,
        encoded: EncodedField,
        pair: Int64[Tensor, " m"],
        query_xy_norm: Float[Tensor, "m 2"],
        positional_gradient: bool = False,
        fused: FusedScore | None = None,
    ) -> QueryScorer:
        """`score` with M query points of the encoded pairs prepared once, see QueryScorer."""
        return QueryScorer(
            self.field,
            encoded.cost_features,
            pair,
            query_xy_norm,
            positional_gradient=positional_gradient,
            fused=fused,
        )


def squash(
    rgb: UInt8[Tensor, "_ _ 3"], mean: Float[Tensor, "3 1 1"], std: Float[Tensor, "3 1 1"], image_size: int
) -> Float[Tensor, "3 s s"]:
    """An image as a network takes it: normalised first, then resized to a square (bicubic, align-corners)."""
    normalised = (rgb.permute(2, 0, 1)[None] / 255 - mean) / std
    return F.interpolate(normalised, (image_size, image_size), mode="bicubic", align_corners=True)[0]


def initial_field(encoded: EncodedField, query_hw: tuple[int, int]) -> Float[Tensor, "b 2 h w"]:
    """The start of the search: the normalised reference (x, y) of every pixel of query images of size `query_hw`."""
    mean = encoded.refined_mean
    centres = torch.linspace(-1, 1, math.isqrt(mean.shape[-1]), device=mean.device, dtype=mean.dtype)
    coarse = soft_argmax(mean, centres, centres)
    return F.interpolate(coarse, query_hw, mode="bilinear", align_corners=True)
