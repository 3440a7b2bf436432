"""PMNC as a matcher: PatchMatch over the cells of the whole query image, read where it is asked for."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from nemf import checkpoints, flow_map
from nemf.calibration import Calibration
from nemf.coordinates import norm_to_px, pixel_grid, px_to_norm, rescale_px
from nemf.matcher import RGB, ImagePair, Match, Matcher
from nemf.matchers.confidence import POINTS_AT_ONCE, flow_mass, mass_maps, point_mass
from nemf.matchers.deterministic import deterministic
from nemf.matchers.feature_cache import FeatureCache, KeptFeatures
from nemf.matchers.salience import dissimilarity
from nemf.matchers.table import COMMON_OPTIONS
from nemf.model.backbone import tensors_digest
from nemf.model.for_matching import for_matching
from nemf.model.network import squash
from nemf.model.pooling import generalised_mean
from nemf.model.quadrilinear import corners
from nemf.pmnc.config import PMNCSearch, pmnc_search_options
from nemf.pmnc.correlation import FilteredCorrelation
from nemf.pmnc.network import PATCHES_AT_ONCE, PMNC, SLABS_AT_ONCE
from nemf.pmnc.patchmatch import LOCAL, CellMatches
from nemf.search.sample import sample_field

_CODE_VERSION = 2
_FLOW_PLACES_HW = (8, 8)
"""The query points whose mass maps the confidence of a flow is read from."""

Size = tuple[int, int]


def build(name: str, *, backbone_weights: None, device: torch.device) -> "PMNCMatcher":
    """The matcher of a checkpoint folder, with settings of the search after a '?'.

    Settings in the name come before those that the checkpoint brings. Raises ValueError for settings that cannot be,
    and as nemf.checkpoints.load does.
    """
    folder, _, text = name.partition("?")
    options = pmnc_search_options(name, text, tuple(COMMON_OPTIONS))
    search = PMNCSearch(**checkpoints.read_search(folder) | options)
    return PMNCMatcher(name, checkpoints.load(folder), device, search, checkpoints.read_calibration(folder))


class PMNCMatcher(Matcher):
    """Matches by a PMNC network.

    PatchMatch gives every cell of the query a cell of the reference. A cell's match is the mean of that cell and the
    eight round it, weighted by the softmax of their scores; a point's, those of the four cells round it, bilinear. So
    it depends on the two images alone, and not on other points. A query point outside its image is treated as the
    nearest one inside.

    The flow is a map (nemf.flow_map) of the cells' matches that has the points' matches at the pair's points as nearly
    as cells allow, bilinear between them.

    A score map holds the scores of all reference cells, read at the centres of as many cells that tile the image: those
    of the four query cells round the point, bilinear. calibration makes the confidence (nemf.calibration) of the map's
    mass at an answer; by default it is the mass. For the flow, 8 x 8 query places have such maps, and each cell reads
    those round it (nemf.matchers.confidence.flow_mass).
    """

    def __init__(
        self,
        name: str,
        model: PMNC,
        device: torch.device,
        search: PMNCSearch | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.name = name
        self.config = search or PMNCSearch()
        self.calibration = calibration or Calibration()
        backbone = [model.backbone.name, asdict(model.backbone.config)]
        sizes = [model.image_size, model.feature_size, PATCHES_AT_ONCE, SLABS_AT_ONCE]  # not visible in the tensors
        configuration = ["pmnc", _CODE_VERSION, asdict(self.config), asdict(self.calibration), backbone, sizes]
        self.fingerprint = tensors_digest(model.state_dict(), configuration)[:16]
        self.squashed_side = model.image_size
        self.device = device
        self.model = for_matching(model, device, model.image_size, bfloat16=self.config.precision == "bfloat16")
        self._cells_norm = px_to_norm(pixel_grid(model.cells_hw), model.cells_hw).view(-1, 2)
        self._kept = KeptFeatures()

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterator[Match]:
        cache = self._cache()
        for pair in pairs:
            correlation = self._correlation(pair, cache)
            yield self._match(pair, correlation, [self.calibration.temperature])[0]

    def masses(self, pair: ImagePair, temperatures: Sequence[float]) -> tuple[Match, Float32[np.ndarray, "t k"]]:
        """The pair's match, and the mass of each of its points' answers at every temperature."""
        correlation = self._correlation(pair, self._cache())
        match, _ = self._match(pair, correlation, [self.calibration.temperature])
        _, masses = self._match(pair, correlation, temperatures)
        return match, masses.numpy()

    @torch.inference_mode()
    def salience(self, rgb: RGB) -> Float32[np.ndarray, "h w"]:
        """The dissimilarity of the features, see nemf.matchers.salience."""
        return dissimilarity(self.encode(rgb))

    @torch.inference_mode()
    def embed(self, images: Iterable[RGB]) -> Iterator[Float32[np.ndarray, " c"]]:
        """The backbone's deepest map, pooled; see nemf.matcher.ImageEmbedder."""
        for rgb in images:
            with deterministic():
                pooled = generalised_mean(self.model.backbone(self._image(rgb))[-1])
            yield pooled[0].float().cpu().numpy()

    @torch.inference_mode()
    def encode(self, rgb: RGB) -> Float[Tensor, "c h w"]:
        """Unit features of the image's cells. One image at a time, so that its batch cannot change them."""
        with deterministic():
            return self.model.features(self._image(rgb))[0]

    def _image(self, rgb: RGB) -> Float[Tensor, "1 3 s s"]:
        backbone = self.model.backbone
        image = torch.from_numpy(np.array(rgb)).to(self.device)
        return squash(image, backbone.mean, backbone.std, self.model.image_size)[None]

    def _cache(self) -> FeatureCache:
        return FeatureCache(lambda images: [[self.encode(rgb)] for rgb in images], self._kept)

    def _correlation(self, pair: ImagePair, cache: FeatureCache) -> FilteredCorrelation:
        (query,), (reference,) = cache.encode([pair.query_rgb, pair.reference_rgb])
        return self.model.correlation(query, reference)

    @torch.inference_mode()
    def _match(
        self, pair: ImagePair, correlation: FilteredCorrelation, temperatures: Sequence[float]
    ) -> tuple[Match, Float[Tensor, "t k"]]:
        """The pair's match, its confidence at the first of the temperatures, and the points' masses at all of them."""
        query_hw, reference_hw = pair.query_hw, pair.reference_hw
        with deterministic():
            found = self.model.match_cells(correlation, self.config.iterations, self.config.propagation == "offset")
            cells_xy = self._finer(found)
            points_px = self._points_px(pair)
            points_norm = px_to_norm(points_px, query_hw)
            answers_px = self._answers_px(cells_xy, points_norm, reference_hw)
            maps, masses = self._point_maps(correlation, points_norm, answers_px, reference_hw, temperatures)
            flow_px = flow_confidence = None
            if pair.dense:
                flow_px, flow_confidence = self._flow(correlation, cells_xy, points_px, answers_px, pair)
        confidence = self.calibration.confidence(masses[0].numpy()).astype(np.float32)
        return Match(
            reference_xy_px=answers_px.cpu().numpy(),
            point_confidence=confidence,
            flow_px=flow_px,
            flow_confidence=flow_confidence,
            score_maps=maps.cpu().numpy() if pair.score_maps else None,
        ), masses

    def _points_px(self, pair: ImagePair) -> Float[Tensor, "k 2"]:
        """The pair's points; those outside the query are moved to the nearest place inside."""
        return torch.from_numpy(pair.points_inside_px()).to(self.device)

    def _finer(self, found: CellMatches) -> Float[Tensor, "q 2"]:
        """The match (x, y) of every query cell, in cells of the reference: between the one found and those round it."""
        columns = self.model.cells_hw[1]
        cell_xy = torch.stack([found.cell % columns, found.cell // columns], dim=1)
        step_xy = torch.tensor(LOCAL, device=self.device).flip(1)
        weight = found.local_scores.softmax(dim=1)
        return cell_xy + (weight[..., None] * step_xy).sum(dim=1)

    def _answers_px(
        self, cells_xy: Float[Tensor, "q 2"], query_xy_norm: Float[Tensor, "n 2"], reference_hw: Size
    ) -> Float[Tensor, "n 2"]:
        """Where the cells' matches, bilinear between them, send points of the query."""
        hw = self.model.cells_hw
        field = cells_xy.T.view(1, 2, *hw)
        xy = sample_field(field, norm_to_px(query_xy_norm, hw)[None])[0]
        return norm_to_px(px_to_norm(xy, hw), reference_hw)

    def _point_maps(
        self,
        correlation: FilteredCorrelation,
        query_xy_norm: Float[Tensor, "k 2"],
        answers_px: Float[Tensor, "k 2"],
        reference_hw: Size,
        temperatures: Sequence[float],
    ) -> tuple[Float[Tensor, "k h w"], Float[Tensor, "t k"]]:
        """The score map of each point, and the mass of its answer at every temperature, on the CPU."""
        maps = [self._score_maps(correlation, query_xy_norm[:0])]
        masses = [torch.zeros(len(temperatures), 0)]
        for points, answers in zip(query_xy_norm.split(POINTS_AT_ONCE), answers_px.split(POINTS_AT_ONCE), strict=True):
            if len(points):
                maps.append(self._score_maps(correlation, points))
                at_each = [point_mass(maps[-1], answers, reference_hw, temperature) for temperature in temperatures]
                masses.append(torch.stack(at_each).cpu())
        return torch.cat(maps), torch.cat(masses, dim=1)

    def _score_maps(
        self, correlation: FilteredCorrelation, query_xy_norm: Float[Tensor, "k 2"]
    ) -> Float[Tensor, "k h w"]:
        """The scores of all reference cells at points, read at the centres of as many cells that tile the image.

        Computed for POINTS_AT_ONCE points together, padded, whatever their number: kernels round differently by shape.
        """
        hw = self.model.cells_hw
        if not len(query_xy_norm):
            return query_xy_norm.new_zeros(0, *hw)
        around = corners(F.pad(query_xy_norm, (0, 0, 0, -len(query_xy_norm) % POINTS_AT_ONCE)), hw)
        scores = self.model.score_maps(correlation, around.cell.flatten()).view(-1, 4, *hw)
        mixed = scores[:, 0] * around.weight[:, 0, None, None]
        for corner in range(1, 4):
            mixed = mixed + scores[:, corner] * around.weight[:, corner, None, None]
        # tiles of a square of many pixels, whatever the image: the same places up to a fraction of a pixel
        seen_hw = (self.model.image_size, self.model.image_size)
        tiles = px_to_norm(rescale_px(pixel_grid(hw), hw, seen_hw), seen_hw).to(mixed)
        read = F.grid_sample(mixed[:, None], tiles.expand(len(mixed), -1, -1, -1), align_corners=True)
        return read[: len(query_xy_norm), 0]

    def _flow(
        self,
        correlation: FilteredCorrelation,
        cells_xy: Float[Tensor, "q 2"],
        points_px: Float[Tensor, "k 2"],
        answers_px: Float[Tensor, "k 2"],
        pair: ImagePair,
    ) -> tuple[Float32[np.ndarray, "h w 2"], Float32[np.ndarray, "h w"]]:
        """The flow of every query pixel and its confidence."""
        query_hw, reference_hw, hw = pair.query_hw, pair.reference_hw, self.model.cells_hw
        cells_px = norm_to_px(self._cells_norm, query_hw).to(self.device)
        matched_px = norm_to_px(px_to_norm(cells_xy, hw), reference_hw)
        places_px = rescale_px(pixel_grid(_FLOW_PLACES_HW), _FLOW_PLACES_HW, query_hw).view(-1, 2)
        places_norm = px_to_norm(places_px, query_hw).clamp(-1, 1).to(self.device)
        some = [self._score_maps(correlation, places) for places in places_norm.split(POINTS_AT_ONCE)]
        masses = torch.cat([mass_maps(scores, reference_hw, self.calibration.temperature) for scores in some])
        mass = flow_mass(masses, _FLOW_PLACES_HW, cells_px, matched_px, query_hw, reference_hw)
        confidence = self.calibration.confidence(mass.cpu().numpy()).reshape(hw)
        smooth_px, agreement = flow_map.smoothed(
            (matched_px - cells_px).view(*hw, 2).cpu().numpy(),
            confidence,
            reference_hw,
            norm_to_px(px_to_norm(points_px, query_hw), hw).cpu().numpy(),
            (answers_px - points_px).cpu().numpy(),
        )
        by_cell = np.concatenate([smooth_px, (confidence * agreement)[..., None]], axis=2)
        cells = torch.from_numpy(by_cell).float().permute(2, 0, 1)[None]
        by_pixel = F.interpolate(cells, query_hw, mode="bilinear", align_corners=True)[0]
        return by_pixel[:2].permute(1, 2, 0).contiguous().numpy(), by_pixel[2].clamp(0, 1).numpy()
