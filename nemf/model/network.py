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
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from nemf.model.backbone import Backbone
from nemf.model.cost_encoder import CostEncoder, soft_argmax
from nemf.model.descriptor_decoder import DescriptorDecoder
from nemf.model.field import Field
from nemf.model.neck import Neck
from nemf.model.pair_costs import POINTS_AT_ONCE, PairCosts
from nemf.model.scorer import CostTable, FusedScore, QueryScorer


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedField:
    """The part of a batch of encoded pairs that the search reads. Cells are numbered row by row."""

    field: Field
    with_mean: Float[Tensor, "b _ reference query"]
    """The refined correlation and its mean, see Field.with_mean."""

    @property
    def refined_mean(self) -> Float[Tensor, "b reference query"]:
        """The refined correlation's mean over its channels: how well each reference cell matches each query cell."""
        return self.with_mean[:, -1]

    @cached_property
    def pair_costs(self) -> list[PairCosts]:
        """The cost features of each pair."""
        return [PairCosts(self.field, volume) for volume in self.with_mean]

    @cached_property
    def cost_table(self) -> Float[Tensor, "b query reference channel"]:
        """The cost features of all cells."""
        volumes = [costs.volume() for costs in self.pair_costs]
        return volumes[0][None] if len(volumes) == 1 else torch.stack(volumes)

    def select(self, first: int, last: int) -> "EncodedField":
        """The pairs from `first` up to, not including, `last`."""
        return EncodedField(field=self.field, with_mean=self.with_mean[first:last])

    @staticmethod
    def concatenate(batches: Sequence["EncodedField"]) -> "EncodedField":
        """One batch of all pairs."""
        if len(batches) == 1:
            return batches[0]
        return EncodedField(field=batches[0].field, with_mean=torch.cat([batch.with_mean for batch in batches]))


@dataclass(frozen=True, kw_only=True, eq=False)
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
    cost_features: Float[Tensor, "b channel hr wr hq wq"]
    """The volumes that the field interpolates."""

    @cached_property
    def cost_table(self) -> Float[Tensor, "b query reference channel"]:
        """The cost features of all cells: these, not those that PairCosts makes."""
        return self.cost_features.permute(0, 4, 5, 2, 3, 1).flatten(3, 4).flatten(1, 2)


class NeMF(nn.Module):
    """A backbone, a cost encoder and a field that fit together; nemf.model.presets builds them from a configuration.

    neck: turns the backbone's maps into those that are correlated; without one, as published, they are the same.
    decoder: of descriptors at any coordinate from the neck's map. The field does not use it.
    image_size: side of the square images the network takes, in pixels.
    """

    def __init__(
        self,
        backbone: Backbone,
        cost_encoder: CostEncoder,
        field: Field,
        *,
        neck: Neck | None = None,
        decoder: DescriptorDecoder | None = None,
        image_size: int = 256,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.decoder = decoder
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
        with_mean = self.field.with_mean(refined)
        return Encoded(
            field=self.field,
            with_mean=with_mean,
            features_source=reference_features,
            features_target=query_features,
            correlation=correlation,
            refined=refined,
            coarse_flow=self.cost_encoder.coarse_flow(with_mean[:, -1]),
            cost_features=self.field.cost_features(with_mean),
        )

    def encode_field(self, reference_features: list[Tensor], query_features: list[Tensor]) -> EncodedField:
        """What the search reads of `encode_features`."""
        correlation = self.cost_encoder.correlate(reference_features, query_features)
        refined = self.cost_encoder.refine(correlation, reference_features, query_features)
        return EncodedField(field=self.field, with_mean=self.field.with_mean(refined))

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
        expected = (len(encoded.with_mean), source_xy_norm.shape[1], 2)
        if source_xy_norm.shape != expected or target_xy_norm.shape != expected:
            raise ValueError(
                f"points of {expected[0]} encoded pairs must have shape {expected}; got source "
                f"{tuple(source_xy_norm.shape)}, target {tuple(target_xy_norm.shape)}"
            )
        pair = torch.arange(expected[0], device=source_xy_norm.device).repeat_interleave(expected[1])
        scorer = self.scorer(encoded, pair, target_xy_norm.flatten(0, 1), positional_gradient=positional_gradient)
        query_index = torch.arange(len(pair), device=pair.device)
        return scorer(source_xy_norm.flatten(0, 1), query_index).view(expected[:2])

    def point_scorer(
        self, encoded: EncodedField, query_xy_norm: Float[Tensor, "k 2"], fused: FusedScore | None = None
    ) -> QueryScorer:
        """The scorer of at most POINTS_AT_ONCE query points of one encoded pair, without the volume of all cells."""
        padded = F.pad(query_xy_norm, (0, 0, 0, POINTS_AT_ONCE - len(query_xy_norm)))
        (costs,) = encoded.pair_costs
        table = CostTable.of_points(costs.at_points(padded), self.cost_encoder.hw)
        return QueryScorer(self.field, table, padded, fused=fused)

    def scorer(
        self,
        encoded: EncodedField,
        pair: Int64[Tensor, " m"],
        query_xy_norm: Float[Tensor, "m 2"],
        positional_gradient: bool = False,
        fused: FusedScore | None = None,
    ) -> QueryScorer:
        """`score` with M query points of the encoded pairs prepared once, see QueryScorer."""
        hw = self.cost_encoder.hw
        table = CostTable.of_cells(encoded.cost_table.unflatten(2, hw).unflatten(1, hw), pair, query_xy_norm)
        return QueryScorer(self.field, table, query_xy_norm, positional_gradient=positional_gradient, fused=fused)


def squash(
    rgb: UInt8[Tensor, "_ _ 3"], mean: Float[Tensor, "3 1 1"], std: Float[Tensor, "3 1 1"], image_size: int
) -> Float[Tensor, "3 s s"]:
    """An image as a network takes it: resized to a square (bicubic, align-corners) and normalised."""
    size = (image_size, image_size)
    resized = F.interpolate(rgb.permute(2, 0, 1)[None].float(), size, mode="bicubic", align_corners=True)[0]
    return resized.div_(255).sub_(mean).div_(std)


def initial_field(encoded: EncodedField, query_hw: tuple[int, int]) -> Float[Tensor, "b 2 h w"]:
    """The start of the search: the normalised reference (x, y) of every pixel of query images of size `query_hw`."""
    mean = encoded.refined_mean
    centres = torch.linspace(-1, 1, math.isqrt(mean.shape[-1]), device=mean.device, dtype=mean.dtype)
    coarse = soft_argmax(mean, centres, centres)
    return F.interpolate(coarse, query_hw, mode="bilinear", align_corners=True)
