"""LPMFlow as a matcher: the flow of the whole query image, read where it is asked for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from nemf import checkpoints
from nemf.calibration import Calibration
from nemf.coordinates import norm_to_px, pixel_grid, px_to_norm, rescale_px
from nemf.lpmflow.network import EncodedFlow, LPMFlow
from nemf.lpmflow.window import as_map
from nemf.matcher import RGB, ImagePair, Match, Matcher
from nemf.matchers.confidence import POINTS_AT_ONCE, flow_mass, mass_maps, point_mass, read_maps
from nemf.matchers.deterministic import deterministic
from nemf.matchers.feature_cache import FeatureCache, KeptFeatures
from nemf.matchers.salience import dissimilarity
from nemf.matchers.table import COMMON_OPTIONS
from nemf.model.backbone import tensors_digest
from nemf.model.network import squash
from nemf.model.quadrilinear import corners
from nemf.options import parse_options

_CODE_VERSION = 1
CALIBRATION = Calibration(temperature=0.02)
"""The mass itself, at the temperature of the flow's own soft-argmax: no probability before one is fitted."""

_PIXELS_AT_ONCE = 2**18

Size = tuple[int, int]


def build(name: str, *, backbone_weights: None, device: torch.device) -> "LpmflowMatcher":
    """The matcher of a checkpoint folder; it has no options of its own.

    Raises ValueError for options, and as nemf.checkpoints.load does.
    """
    folder, _, text = name.partition("?")
    parse_options(name, text, {}, COMMON_OPTIONS)
    calibration = checkpoints.read_calibration(folder)
    return LpmflowMatcher(name, checkpoints.load(folder), device, calibration)


class LpmflowMatcher(Matcher):
    """Matches by an LPMFlow network: the query is its source, the reference its target.

    The flow has one displacement for each of its cells, which tile the query; pixels and points between their centres
    are interpolated (bilinear), so a point at a pixel has the flow of that pixel. A query point outside its image is
    treated as the nearest one inside. Images are encoded one by one and pairs too, whatever their batch.

    calibration: makes the confidence (nemf.calibration) of the mass of the fine correlation's row at the query point;
        by default CALIBRATION. The flow's is that of its cells, each by the rows of the four fine cells round it.
    A score map is that row: the attention from the point to each fine cell of the reference, summed over heads.
    """

    def __init__(self, name: str, model: LPMFlow, device: torch.device, calibration: Calibration | None = None) -> None:
        self.name = name
        self.calibration = calibration or CALIBRATION
        backbone = [model.backbone.name, asdict(model.backbone.config)]
        sizes = [model.cells, model.fine_decoder.cross_attention.heads]  # not visible in the tensors
        configuration = ["lpmflow", _CODE_VERSION, asdict(self.calibration), backbone, sizes]
        self.fingerprint = tensors_digest(model.state_dict(), configuration)[:16]
        self.squashed_side = model.image_size
        self.device = device
        self.model = model.eval().requires_grad_(False).to(device)
        self._kept = KeptFeatures()

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterator[Match]:
        cache = self._cache()
        for pair in pairs:
            yield self._match(self._encode(pair, cache), pair)

    @torch.inference_mode()
    def masses(self, pair: ImagePair, temperatures: Sequence[float]) -> tuple[Match, Float32[np.ndarray, "t k"]]:
        """The pair's match, and the mass of each of its points' answers at every temperature."""
        encoded = self._encode(pair, self._cache())
        match = self._match(encoded, pair)
        answers_xy_px = torch.from_numpy(match.reference_xy_px).to(self.device)
        masses = self._point_masses(encoded, pair, answers_xy_px, temperatures)
        return match, masses.cpu().numpy()

    @torch.inference_mode()
    def salience(self, rgb: RGB) -> Float32[np.ndarray, "h w"]:
        """The dissimilarity of the backbone's tokens, see nemf.matchers.salience."""
        return dissimilarity(F.normalize(as_map(self._tokens(rgb))[0], dim=0))

    def embed(self, images: Iterable[RGB]) -> Iterator[Float32[np.ndarray, " c"]]:
        """The backbone's token of the image; see nemf.matcher.ImageEmbedder."""
        for rgb in images:
            yield self._tokens(rgb)[0, 0].cpu().numpy()

    def _cache(self) -> FeatureCache:
        return FeatureCache(lambda images: [[self._tokens(rgb)] for rgb in images], self._kept)

    @torch.inference_mode()
    def _tokens(self, rgb: RGB) -> Float[Tensor, "1 token dim"]:
        """The backbone's tokens of an image."""
        backbone = self.model.backbone
        image = torch.from_numpy(np.array(rgb)).to(self.device)
        with deterministic():
            return self.model.tokens(squash(image, backbone.mean, backbone.std, self.model.image_size)[None])

    @torch.inference_mode()
    def _encode(self, pair: ImagePair, cache: FeatureCache) -> EncodedFlow:
        (query,), (reference,) = cache.encode([pair.query_rgb, pair.reference_rgb])
        with deterministic():
            return self.model.encode_tokens(query, reference)

    @torch.inference_mode()
    def _match(self, encoded: EncodedFlow, pair: ImagePair) -> Match:
        query_hw, points_px = pair.query_hw, self._points_px(pair)
        answers_xy_px = self._answers_px(encoded, pair, points_px)
        (mass,) = self._point_masses(encoded, pair, answers_xy_px, [self.calibration.temperature])
        flow_px = flow_confidence = None
        if pair.dense:
            pixels_px = pixel_grid(query_hw).view(-1, 2)
            parts = [
                (self._answers_px(encoded, pair, some.to(self.device)).cpu() - some)
                for some in pixels_px.split(_PIXELS_AT_ONCE)
            ]
            flow_px = torch.cat(parts).view(*query_hw, 2).numpy()
            flow_confidence = self._flow_confidence(encoded, pair)
        return Match(
            reference_xy_px=answers_xy_px.cpu().numpy(),
            point_confidence=self.calibration.confidence(mass.cpu().numpy()).astype(np.float32),
            flow_px=flow_px,
            flow_confidence=flow_confidence,
            score_maps=self._scores(encoded, pair, points_px).cpu().numpy() if pair.score_maps else None,
        )

    def _answers_px(
        self, encoded: EncodedFlow, pair: ImagePair, query_xy_px: Float[Tensor, "n 2"]
    ) -> Float[Tensor, "n 2"]:
        """Where in the reference the flow takes points of the query; the flow is that of the nearest cells' centres."""
        seen_hw, flow_hw = self._seen_hw, (self.model.flow_side, self.model.flow_side)
        seen_xy_px = norm_to_px(px_to_norm(query_xy_px, pair.query_hw), seen_hw)
        zero = torch.zeros(len(query_xy_px), dtype=torch.int64, device=self.device)
        x, y = (read_maps(encoded.flow[0], zero + axis, seen_xy_px, seen_hw) for axis in (0, 1))
        cell_xy = rescale_px(seen_xy_px, seen_hw, flow_hw) + torch.stack([x, y], dim=1)
        return norm_to_px(px_to_norm(rescale_px(cell_xy, flow_hw, seen_hw), seen_hw), pair.reference_hw)

    def _scores(
        self, encoded: EncodedFlow, pair: ImagePair, query_xy_px: Float[Tensor, "k 2"]
    ) -> Float[Tensor, "k h w"]:
        """The fine correlation's rows at points of the query, bilinear between the cells' centres: their scores of the
        fine cells of the reference."""
        hw = (2 * self.model.cells, 2 * self.model.cells)
        seen_xy_px = norm_to_px(px_to_norm(query_xy_px, pair.query_hw), self._seen_hw)
        cell, weight = corners(px_to_norm(rescale_px(seen_xy_px, self._seen_hw, hw), hw).clamp(-1, 1), hw)
        # one after the other: a sum along an axis rounds by the number of points
        rows = [encoded.correlation_22[0, cell[:, corner]] * weight[:, corner, None] for corner in range(4)]
        return (rows[0] + rows[1] + rows[2] + rows[3]).unflatten(1, hw)

    def _point_masses(
        self, encoded: EncodedFlow, pair: ImagePair, answers_xy_px: Float[Tensor, "k 2"], temperatures: Sequence[float]
    ) -> Float[Tensor, "t k"]:
        """The mass of answers to the pair's points."""
        points_px, reference_hw = self._points_px(pair), pair.reference_hw
        masses = [points_px.new_zeros(len(temperatures), 0)]
        for first in range(0, len(points_px), POINTS_AT_ONCE):
            some = slice(first, first + POINTS_AT_ONCE)
            scores = self._scores(encoded, pair, points_px[some])
            of_some = [point_mass(scores, answers_xy_px[some], reference_hw, t) for t in temperatures]
            masses.append(torch.stack(of_some))
        return torch.cat(masses, dim=1)

    def _flow_confidence(self, encoded: EncodedFlow, pair: ImagePair) -> Float32[np.ndarray, "h w"]:
        """The confidence of the flow at every pixel of the query, bilinear between those of the flow's cells."""
        side, fine = self.model.flow_side, 2 * self.model.cells
        query_hw, reference_hw = pair.query_hw, pair.reference_hw
        scores = encoded.correlation_22[0].unflatten(1, (fine, fine))
        maps = mass_maps(scores, reference_hw, self.calibration.temperature)
        cells_px = rescale_px(pixel_grid((side, side)).view(-1, 2), (side, side), query_hw).to(self.device)
        answers_px = self._answers_px(encoded, pair, cells_px)
        mass = flow_mass(maps, (fine, fine), cells_px, answers_px, query_hw, reference_hw)
        confidence = self.calibration.confidence(mass.cpu().numpy()).astype(np.float32)
        cells = torch.from_numpy(confidence).view(1, 1, side, side)
        return F.interpolate(cells, query_hw, mode="bilinear", align_corners=False)[0, 0].clamp(0, 1).numpy()

    @property
    def _seen_hw(self) -> Size:
        """The size of the squashed images."""
        return self.model.image_size, self.model.image_size

    def _points_px(self, pair: ImagePair) -> Float[Tensor, "k 2"]:
        """The query points, clamped to the image."""
        return torch.from_numpy(pair.points_inside_px()).to(self.device)
