"""Neural Matching Fields as a matcher: encode the pairs, search the field for every point, refine."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32
from torch import Tensor

from nemf import checkpoints, pretrained
from nemf.calibration import Calibration
from nemf.coordinates import norm_to_px, pixel_grid, px_to_norm
from nemf.matcher import RGB, ImagePair, Match, Matcher, as_points
from nemf.matchers.deterministic import deterministic
from nemf.matchers.feature_cache import FeatureCache, KeptFeatures
from nemf.matchers.field_flow import FieldFlow, flow_confidence, upsample
from nemf.matchers.field_search import FieldSearch
from nemf.matchers.mirrored import Mirror
from nemf.matchers.pair_field import PairField
from nemf.matchers.salience import dissimilarity, length
from nemf.matchers.table import COMMON_OPTIONS
from nemf.model.backbone import tensors_digest
from nemf.model.descriptors import join
from nemf.model.for_matching import for_matching
from nemf.model.network import EncodedField, NeMF, squash
from nemf.model.pooling import generalised_mean
from nemf.model.scorer import TILE, FusedScore
from nemf.search.coarse_to_fine import on_grid
from nemf.search.config import SearchConfig, search_options
from nemf.search.sample import sample_field

_CODE_VERSION = 13

_ENCODE_BATCH = {"cpu": 1, "cuda": 8}
"""Images and pairs are encoded in batches of this one size, padded: kernels round differently by shape."""
_MAX_GROUP_PAIRS = {"cpu": 1, "cuda": 8}
"""Pairs that are searched together. The cost features of one are more than a CPU's caches hold."""
_MAX_GROUP_PIXELS = 2**21
"""Pixels that are searched together, unless one pair has more. A hidden layer is kept for each pixel of a dense pair,
and for at most every sixteenth pixel of a pair with points only."""


def build(name: str, *, backbone_weights: None, device: torch.device) -> "NemfMatcher":
    """The matcher of a checkpoint folder, or of a network that ships, with settings of the search after a '?'.

    Settings in the name come before those that the checkpoint brings. Raises ValueError for settings that cannot be,
    and as nemf.checkpoints.load does.
    """
    folder, _, text = name.partition("?")
    options = search_options(name, text, COMMON_OPTIONS)
    folder = str(pretrained.folder(folder)) if folder in pretrained.NAMES else folder
    saved = checkpoints.read_search(folder)
    calibration = checkpoints.read_calibration(folder)
    model = checkpoints.load(folder)
    try:
        return NemfMatcher(name, model, device, SearchConfig(**saved | options), calibration)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


class NemfMatcher(Matcher):
    """Matches by a NeMF network.

    Points are searched on the query's own pixel grid, or on the coarser one of the settings; only the pixels are
    searched that they depend on. A query point outside its image is treated as the nearest one inside.

    With flow_nodes = 0 every pixel of the grid is matched for the flow as a point would be: on the pixel grid a
    point's match is the flow at that pixel. With flow_nodes the flow is a map (nemf.flow_map) of the matches of a
    coarser grid of nodes, bilinear between them, that has the points' matches at the pair's points as nearly as
    its nodes allow. The nodes of the mirrored query are matched too, and the map is kept whose nodes are surer and
    agree more with it: the true flow of an object that faces the other way mirrors it. So the flow depends on the
    points that are asked with it; points never depend on the flow.

    calibration: makes the confidence (nemf.calibration) of the field's mass at an answer; by default it is the mass.
    A point's mass is that of its logits at the likeliest of 32 x 32 places of the reference; that of the flow, at a
    pixel or node of its grid, is of the refined correlation (nemf.matchers.field_flow.flow_confidence).
    """

    def __init__(
        self,
        name: str,
        model: NeMF,
        device: torch.device,
        search: SearchConfig | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.name = name
        self.config = search or SearchConfig()
        self.calibration = calibration or Calibration()
        backbone = [model.backbone.name, asdict(model.backbone.config)]
        # not visible in the tensors; of no one device, since drivers without a GPU ask for it too
        sizes = [model.image_size, model.cost_encoder.heads, TILE]
        configuration = [_CODE_VERSION, asdict(self.config), asdict(self.calibration), backbone, sizes]
        is_bfloat16 = self.config.precision == "bfloat16"
        if is_bfloat16:
            configuration.append("features too")  # the field alone was, at first
        self.fingerprint = tensors_digest(model.state_dict(), configuration)[:16]
        self.squashed_side = model.image_size
        self.device = device
        self._encode_batch = _ENCODE_BATCH[device.type]
        self.model = for_matching(model, device, model.image_size, bfloat16=is_bfloat16)
        self._is_mirrored = self.config.point_search == "mirrored-map"
        self._by_map = self.config.point_search != "patchmatch"
        self._fused = _fused_score(self.model) if is_bfloat16 and device.type == "cuda" else None
        self._search = FieldSearch(model=self.model, config=self.config, fused=self._fused)
        self._flow = FieldFlow(search=self._search, calibration=self.calibration)
        self._kept = KeptFeatures()

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterator[Match]:
        cache, mirror = self._cache(), Mirror()
        for group in self._groups(pairs):
            encoded = self.encode(group, cache)
            fields = [self._field(pair, encoded.select(i, i + 1)) for i, pair in enumerate(group)]
            if self._is_mirrored:
                mirrored = self.encode([mirror.pair(pair) for pair in group], cache)
                fields = [replace(field, mirrored=mirrored.select(i, i + 1)) for i, field in enumerate(fields)]
            matches = self._matches(encoded, fields)
            dense = [index for index, pair in enumerate(group) if pair.dense]
            if dense and self.config.flow_nodes:
                flows = self._flow.flows(
                    EncodedField.concatenate([fields[index].encoded for index in dense]),
                    [group[index] for index in dense],
                    [matches[index].reference_xy_px for index in dense],
                    partial(self.encode, cache=cache),
                    mirror,
                )
                for index, (flow_px, flow_confidence) in zip(dense, flows, strict=True):
                    matches[index] = replace(matches[index], flow_px=flow_px, flow_confidence=flow_confidence)
            for pair, field, match in zip(group, fields, matches, strict=True):
                yield replace(match, score_maps=field.score_maps()) if pair.score_maps else match

    @torch.no_grad()
    def encode(self, pairs: Sequence[ImagePair], cache: FeatureCache | None = None) -> EncodedField:
        """The pairs as one encoded batch.

        cache: of the call that they are part of.
        """
        cache = cache or self._cache()
        # the same algorithm every time, and no rounding to TF32 where full precision was configured
        tf32 = self.config.precision != "float32"
        with deterministic(tf32=tf32):
            features = cache.encode([rgb for pair in pairs for rgb in (pair.reference_rgb, pair.query_rgb)])
            encoded = []
            for first in range(0, len(pairs), self._encode_batch):
                count = min(self._encode_batch, len(pairs) - first)
                batch = features[2 * first : 2 * (first + count)]
                reference, query = (
                    [self._batch(level) for level in zip(*role, strict=True)] for role in (batch[::2], batch[1::2])
                )
                encoded.append(self.model.encode_field(reference, query).select(0, count))
        return EncodedField.concatenate(encoded)

    def embed(self, images: Iterable[RGB]) -> Iterator[Float32[np.ndarray, " c"]]:
        """The backbone's deepest map, pooled; see nemf.matcher.ImageEmbedder. The images are taken as they are needed.

        On 220 photographs of five animals 47 % of the 8 nearest images show the same animal, as with the maximum, which
        has more images that are near to many others; 41 % with the mean, 43 % with the neck's map; 24 % by chance.
        """
        tf32 = self.config.precision != "float32"
        remaining = map(self._squash, images)
        while batch := list(islice(remaining, self._encode_batch)):
            with torch.no_grad(), deterministic(tf32=tf32):
                pooled = generalised_mean(self.model.backbone(self._batch(batch))[-1])
            yield from pooled[: len(batch)].float().cpu().numpy()

    def _cache(self) -> FeatureCache:
        """A cache for one call. A mirrored image is one more image in it, met as often as the image itself."""
        return FeatureCache(self._features, self._kept)

    def _features(self, images: Sequence[RGB]) -> list[list[Float[Tensor, "_ _ _"]]]:
        """The maps (c_l, h_l, w_l) to correlate of each of the images."""
        features = []
        for first in range(0, len(images), self._encode_batch):
            batch = [self._squash(rgb) for rgb in images[first : first + self._encode_batch]]
            levels = self.model.features(self._batch(batch))
            features += [[level[i].clone() for level in levels] for i in range(len(batch))]
        return features

    def _batch(self, tensors: Sequence[Float[Tensor, "_ _ _"]]) -> Float[Tensor, "_ _ _ _"]:
        """The tensors as a batch of the one size, padded with zeros."""
        stacked = torch.stack(list(tensors))
        return F.pad(stacked, (0, 0, 0, 0, 0, 0, 0, self._encode_batch - len(stacked)))

    @torch.no_grad()
    def salience(self, rgb: RGB) -> Float32[np.ndarray, "h w"]:
        """The length of the neck's descriptors, or how unlike those of no neck are, see nemf.matchers.salience."""
        tf32 = self.config.precision != "float32"
        with deterministic(tf32=tf32):
            (levels,) = self._features([rgb])
        if self.model.neck is not None:
            return length(levels[0])
        return dissimilarity(F.normalize(join([level[None] for level in levels])[0], dim=0))

    def _matches(self, encoded: EncodedField, fields: Sequence[PairField]) -> list[Match]:
        """The matches of the fields' pairs, with flow where no map is made of it."""
        pairs = [field.pair for field in fields]
        if self._by_map:
            matches = [self._match_by_map(field) for field in fields]
            if any(pair.dense for pair in pairs) and not self.config.flow_nodes:
                without_points = [replace(pair, query_xy_px=None) for pair in pairs]
                flows = self.refine(encoded, self.search(encoded, without_points), without_points)
                matches = [
                    replace(match, flow_px=flow.flow_px, flow_confidence=flow.flow_confidence)
                    for match, flow in zip(matches, flows, strict=True)
                ]
            return matches
        sought = [replace(pair, dense=False) for pair in pairs] if self.config.flow_nodes else pairs
        return self.refine(encoded, self.search(encoded, sought), sought)

    def _match_by_map(self, field: PairField) -> Match:
        """The matches of the pair's points where the field has most, without flow."""
        answers_xy_px, (mass,) = field.answers([self.calibration.temperature])
        return Match(reference_xy_px=answers_xy_px, point_confidence=self._confidence(mass))

    def search(self, encoded: EncodedField, pairs: Sequence[ImagePair]) -> list[Float[Tensor, "2 _ _"]]:
        """The normalised reference (x, y) that PatchMatch finds for every pixel, or grid pixel, of each query image.

        For a pair that is not dense, only the pixels that its points are read from are valid.
        """
        points_px = [None if pair.dense else self._points_px(pair) for pair in pairs]
        sizes = [pair.query_hw for pair in pairs]
        return self._search.on_grids(encoded, pairs, sizes, points_px, self.config.grid_strides)

    @torch.no_grad()
    def refine(
        self, encoded: EncodedField, fields_norm: Sequence[Float[Tensor, "2 _ _"]], pairs: Sequence[ImagePair]
    ) -> list[Match]:
        """The matches of the pairs, from the fields of `search`, on whatever grids."""
        query, start = [], []
        for pair, field in zip(pairs, fields_norm, strict=True):
            grid_hw = (field.shape[1], field.shape[2])
            points_px = self._points_px(pair)
            pixels = pixel_grid(grid_hw) if pair.dense else torch.zeros(0, 2)
            pixels_px = pixels.view(-1, 2).to(self.device)
            field_px = torch.cat([on_grid(points_px, pair.query_hw, grid_hw), pixels_px])
            start.append(sample_field(field[None], field_px[None])[0])
            query.append(torch.cat([px_to_norm(points_px, pair.query_hw), px_to_norm(pixels_px, grid_hw)]))
        refined = self._search.refine(encoded, query, start)
        return [
            self._match(self._field(pair, encoded.select(i, i + 1)), (field.shape[1], field.shape[2]), xy_norm)
            for i, (pair, field, (xy_norm, _)) in enumerate(zip(pairs, fields_norm, refined, strict=True))
        ]

    def _match(self, field: PairField, grid_hw: tuple[int, int], reference_xy_norm: Float[Tensor, "n 2"]) -> Match:
        """The match of a pair, from the answers for its points followed by those for the pixels of the flow's grid."""
        pair = field.pair
        n_points = len(pair.points_inside_px())
        reference_xy_px = norm_to_px(reference_xy_norm, pair.reference_hw)
        points_answer_px, pixels_answer_px = reference_xy_px[:n_points], reference_xy_px[n_points:]
        flow_px = confidence = None
        if pair.dense:
            pixels_answer_px = pixels_answer_px.cpu().view(*grid_hw, 2)
            flow_px = (upsample(pixels_answer_px, pair.query_hw) - pixel_grid(pair.query_hw)).numpy()
            by_grid = flow_confidence(field.encoded, pair, pixels_answer_px, self.calibration)
            confidence = upsample(by_grid[..., None], pair.query_hw)[..., 0].numpy()
        (mass,) = field.masses(points_answer_px, [self.calibration.temperature])
        return Match(
            reference_xy_px=points_answer_px.cpu().numpy(),
            point_confidence=self._confidence(mass),
            flow_px=flow_px,
            flow_confidence=confidence,
        )

    def masses(self, pair: ImagePair, temperatures: Sequence[float]) -> tuple[Match, Float32[np.ndarray, "t k"]]:
        """The pair's match without flow, and the mass of each of its points' answers at every temperature."""
        pair = replace(pair, dense=False, score_maps=False)
        encoded = self.encode([pair])
        field = self._field(pair, encoded)
        if self._by_map:
            if self._is_mirrored:
                field = replace(field, mirrored=self.encode([Mirror().pair(pair)]))
            answers_xy_px, masses = field.answers([self.calibration.temperature, *temperatures])
            return Match(reference_xy_px=answers_xy_px, point_confidence=self._confidence(masses[0])), masses[1:]
        (match,) = self.refine(encoded, self.search(encoded, [pair]), [pair])
        return match, field.masses(torch.from_numpy(match.reference_xy_px).to(self.device), temperatures)

    def _field(self, pair: ImagePair, encoded: EncodedField) -> PairField:
        return PairField(model=self.model, pair=pair, encoded=encoded, fused=self._fused)

    def _confidence(self, mass: Float32[np.ndarray, " k"]) -> Float32[np.ndarray, " k"]:
        return self.calibration.confidence(mass).astype(np.float32)

    def score_map(
        self, query_rgb: RGB, reference_rgb: RGB, query_xy_px: Sequence[float | int] | np.ndarray, hw: tuple[int, int]
    ) -> Float32[np.ndarray, "h w"]:
        """The field of one query point: the matching score, 0..1, of evenly spaced points of the reference image.

        query_rgb, reference_rgb: (H, W, 3) uint8.
        query_xy_px: (x, y) in pixels of the query image; outside of it the nearest point inside is taken.
        hw: rows and columns of the map, from the first pixel's centre to the last one's: the score at [i, j] is that of
            x = j (W - 1) / (w - 1), y = i (H - 1) / (h - 1) in the reference image. A single one is in the middle.
        The score is the sigmoid of the field's logit; nothing fixes its zero, so it is no probability.
        Raises ValueError for images or a point of another shape or dtype, and an empty map.
        """
        if min(hw) < 1:
            raise ValueError(f"a score map needs at least 1 x 1 places; got {hw[0]} x {hw[1]}")
        reference_xy_norm = px_to_norm(pixel_grid(hw).view(-1, 2), hw)
        return self._scores(query_rgb, reference_rgb, query_xy_px, reference_xy_norm).reshape(hw)

    def scores(
        self,
        query_rgb: RGB,
        reference_rgb: RGB,
        query_xy_px: Sequence[float | int] | np.ndarray,
        reference_xy_px: Sequence[Sequence[float | int]] | np.ndarray,
    ) -> Float32[np.ndarray, " n"]:
        """The scores of score_map at any points (N, 2) of the reference image; raises ValueError as it does."""
        points_px = torch.from_numpy(as_points(reference_xy_px))
        reference_xy_norm = px_to_norm(points_px, (reference_rgb.shape[0], reference_rgb.shape[1]))
        return self._scores(query_rgb, reference_rgb, query_xy_px, reference_xy_norm)

    @torch.no_grad()
    def _scores(
        self,
        query_rgb: RGB,
        reference_rgb: RGB,
        query_xy_px: Sequence[float | int] | np.ndarray,
        reference_xy_norm: Float[Tensor, "n 2"],
    ) -> Float32[np.ndarray, " n"]:
        point_px = as_points(np.reshape(query_xy_px, (1, 2)))
        pair = ImagePair(query_rgb=query_rgb, reference_rgb=reference_rgb, query_xy_px=point_px)
        field = self._field(pair, self.encode([pair]))
        logits = field.logits(field.points_norm()[0], reference_xy_norm.to(self.device))
        return logits.sigmoid().cpu().numpy()

    def _groups(self, pairs: Sequence[ImagePair]) -> Iterator[list[ImagePair]]:
        """The pairs in groups that are matched together, bounded by the memory that they take."""
        max_pairs = _MAX_GROUP_PAIRS[self.device.type]
        group: list[ImagePair] = []
        n_pixels = 0
        for pair in pairs:
            height, width = pair.query_hw
            pair_pixels = height * width // 16
            if pair.dense:
                pair_pixels = pair_pixels + self.config.flow_nodes**2 if self.config.flow_nodes else height * width
            if group and (len(group) == max_pairs or n_pixels + pair_pixels > _MAX_GROUP_PIXELS):
                yield group
                group, n_pixels = [], 0
            group.append(pair)
            n_pixels += pair_pixels
        if group:
            yield group

    def _squash(self, rgb: RGB) -> Float[Tensor, "3 h w"]:
        backbone = self.model.backbone
        image = torch.from_numpy(np.array(rgb)).to(self.device)
        return squash(image, backbone.mean, backbone.std, self.model.image_size)

    def _points_px(self, pair: ImagePair) -> Float[Tensor, "k 2"]:
        """The query points, clamped to the image."""
        return torch.from_numpy(pair.points_inside_px()).to(self.device)


def _fused_score(model: NeMF) -> FusedScore:
    # Triton comes with PyTorch for CUDA only
    from nemf.model import field_triton

    return partial(field_triton.score, field_triton.KernelWeights.from_field(model.field))
