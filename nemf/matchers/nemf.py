"""Neural Matching Fields as a matcher: encode the pairs, search the field for every point, refine."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from nemf import checkpoints, flow_map, pretrained
from nemf.calibration import Calibration
from nemf.coordinates import norm_to_px, pixel_grid, px_to_norm, rescale_px
from nemf.matcher import RGB, ImagePair, Match, Matcher, as_points
from nemf.matchers.confidence import POINTS_AT_ONCE, flow_mass, mass_maps, point_mass
from nemf.matchers.feature_cache import FeatureCache
from nemf.matchers.salience import dissimilarity, length
from nemf.matchers.table import COMMON_OPTIONS
from nemf.model.backbone import tensors_digest
from nemf.model.descriptors import join
from nemf.model.network import EncodedField, NeMF, initial_field, squash
from nemf.model.pooling import generalised_mean
from nemf.model.scorer import TILE, FusedScore
from nemf.search.coarse_to_fine import on_grid, pixel_grids, sample_coarse
from nemf.search.config import SearchConfig, search_options
from nemf.search.counter_rng import pair_key
from nemf.search.patchmatch import counter_uniform, search_pixels
from nemf.search.pixel_list import Size
from nemf.search.refine import refine
from nemf.search.sample import sample_field
from nemf.search.score_peak import best_cells, finer_answers

_CODE_VERSION = 8

_ENCODE_BATCH = {"cpu": 1, "cuda": 8}
"""Images and pairs are encoded in batches of this one size, padded: kernels round differently by shape."""
_SCORE_MAP_HW = (64, 64)
_MASS_MAP_HW = (32, 32)
_FLOW_PLACES_HW = (16, 16)
"""The query points whose mass maps the confidence of a flow is read from."""
_MAX_GROUP_PAIRS = 8
_MAX_GROUP_PIXELS = {"cpu": 2**17, "cuda": 2**21}
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
    A point's mass is that of its logits at 32 x 32 places of the reference. For the flow, 16 x 16 query places have
    such maps, and each pixel or node of the flow's grid reads those of the four places round it, at the place where the
    flow ends (nemf.matchers.confidence.flow_mass).
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
        sizes = [model.image_size, model.cost_encoder.heads, TILE[device.type]]  # not visible in the tensors
        configuration = [_CODE_VERSION, asdict(self.config), asdict(self.calibration), backbone, sizes]
        if self.config.precision == "bfloat16" and device.type != "cuda":
            raise ValueError(f"precision bfloat16 needs a CUDA device; this is {device}: leave the option out")
        self.fingerprint = tensors_digest(model.state_dict(), configuration)[:16]
        self.device = device
        self._encode_batch = _ENCODE_BATCH[device.type]
        self.model = model.eval().requires_grad_(False).to(device)
        self._is_mirrored = self.config.point_search == "mirrored-map"
        self._fused = _fused_score(self.model) if self.config.precision == "bfloat16" else None

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterator[Match]:
        cache, mirrored_cache = FeatureCache(self._features), FeatureCache(self._features)
        mirrored_rgb = _Mirrored()
        for group in self._groups(pairs):
            encoded = self.encode(group, cache)
            mirrored = (
                self.encode([mirrored_rgb.pair(pair) for pair in group], mirrored_cache) if self._is_mirrored else None
            )
            for index, match in enumerate(self._matches(encoded, mirrored, group, cache, mirrored_rgb)):
                pair = group[index]
                score_maps = self._score_maps(_fields(encoded, mirrored, index), pair) if pair.score_maps else None
                yield replace(match, score_maps=score_maps)

    @torch.no_grad()
    def encode(self, pairs: Sequence[ImagePair], cache: FeatureCache | None = None) -> EncodedField:
        """The pairs as one encoded batch.

        cache: features of the images, shared with other pairs.
        """
        cache = cache or FeatureCache(self._features)
        # the same algorithm every time, and no rounding to TF32 where full precision was configured
        tf32 = self.config.precision != "float32"
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
            features = cache.encode([rgb for pair in pairs for rgb in (pair.reference_rgb, pair.query_rgb)])
            encoded = []
            for first in range(0, len(pairs), self._encode_batch):
                count = min(self._encode_batch, len(pairs) - first)
                batch = features[2 * first : 2 * (first + count)]
                reference, query = (
                    [self._batch(level) for level in zip(*role, strict=True)] for role in (batch[::2], batch[1::2])
                )
                encoded.append(self.model.encode_features(reference, query).select(0, count))
        return EncodedField.concatenate(encoded)

    def embed(self, images: Iterable[RGB]) -> Iterator[Float32[np.ndarray, " c"]]:
        """The backbone's deepest map, pooled; see nemf.matcher.ImageEmbedder. The images are taken as they are needed.

        On 220 photographs of five animals 47 % of the 8 nearest images show the same animal, as with the maximum, which
        has more images that are near to many others; 41 % with the mean, 43 % with the neck's map; 24 % by chance.
        """
        tf32 = self.config.precision != "float32"
        remaining = map(self._squash, images)
        while batch := list(islice(remaining, self._encode_batch)):
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
                pooled = generalised_mean(self.model.backbone(self._batch(batch))[-1])
            yield from pooled[: len(batch)].float().cpu().numpy()

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
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
            (levels,) = self._features([rgb])
        if self.model.neck is not None:
            return length(levels[0])
        return dissimilarity(F.normalize(join([level[None] for level in levels])[0], dim=0))

    def _matches(
        self,
        encoded: EncodedField,
        mirrored: EncodedField | None,
        pairs: Sequence[ImagePair],
        cache: FeatureCache | None = None,
        mirrored_rgb: "_Mirrored | None" = None,
    ) -> list[Match]:
        """mirrored: of the mirrored images, where the settings ask for it. cache: must not outlive mirrored_rgb."""
        config, any_dense = self.config, any(pair.dense for pair in pairs)
        if config.point_search != "patchmatch":
            matches = [self._match_by_map(_fields(encoded, mirrored, i), pair) for i, pair in enumerate(pairs)]
            if any_dense and not config.flow_nodes:
                flows = self.refine(encoded, self.search(encoded, pairs), pairs)
                by_pixel = [(flow.flow_px, flow.flow_confidence) for flow in flows]
                matches = [
                    replace(match, flow_px=flow_px, flow_confidence=confidence)
                    for match, (flow_px, confidence) in zip(matches, by_pixel, strict=True)
                ]
        else:
            sought = [replace(pair, dense=False) for pair in pairs] if config.flow_nodes else pairs
            matches = self.refine(encoded, self.search(encoded, sought), sought)
        if any_dense and config.flow_nodes:
            return self._with_flow_maps(encoded, pairs, matches, cache, mirrored_rgb or _Mirrored())
        return matches

    def _with_flow_maps(
        self,
        encoded: EncodedField,
        pairs: Sequence[ImagePair],
        matches: Sequence[Match],
        cache: FeatureCache | None,
        mirrored_rgb: "_Mirrored",
    ) -> list[Match]:
        """The matches of the pairs' points, with flow where a pair is dense: of the query or of its mirror image."""
        dense = [index for index, pair in enumerate(pairs) if pair.dense]
        turned = [mirrored_rgb.query(pairs[index]) for index in dense]
        turned_encoded = self.encode(turned, cache)
        upright_maps = self._flow_maps(encoded, pairs, matches)
        turned_maps = self._flow_maps(turned_encoded, turned, [matches[index] for index in dense])
        mapped = list(matches)
        for number, index in enumerate(dense):
            upright, mirror = upright_maps[index], turned_maps[number]
            if mirror.sureness > upright.sureness:
                one = turned_encoded.select(number, number + 1)
                answer_px, confidence = (maps[:, ::-1] for maps in self._flow(one, turned[number], mirror))
            else:
                answer_px, confidence = self._flow(encoded.select(index, index + 1), pairs[index], upright)
            flow_px = answer_px - pixel_grid(_query_hw(pairs[index])).numpy()
            mapped[index] = replace(matches[index], flow_px=flow_px, flow_confidence=np.ascontiguousarray(confidence))
        return mapped

    @torch.no_grad()
    def _match_by_map(self, fields: Sequence["_Field"], pair: ImagePair) -> Match:
        """The matches of the pair's points where their fields have most, without flow."""
        answers_xy_px, masses = self._read_maps(fields, pair, [self.calibration.temperature])
        return Match(
            reference_xy_px=answers_xy_px,
            point_confidence=self.calibration.confidence(masses[0]).astype(np.float32),
        )

    def _read_maps(
        self, fields: Sequence["_Field"], pair: ImagePair, temperatures: Sequence[float]
    ) -> tuple[Float32[np.ndarray, "k 2"], Float32[np.ndarray, "t k"]]:
        """The answers to the pair's points, in pixels, and their masses at every temperature."""
        hw = _reference_hw(pair)
        first_and_last_px = torch.tensor([[0.0, 0.0], [hw[1] - 1, hw[0] - 1]], device=self.device)
        low_xy, high_xy = rescale_px(first_and_last_px, hw, _MASS_MAP_HW)
        query_xy_norm = px_to_norm(self._points_px(pair), _query_hw(pair))
        n_points = len(query_xy_norm)
        answers_px = np.zeros((n_points, 2), np.float32)
        masses = np.zeros((len(temperatures), n_points), np.float32)
        for first in range(0, n_points, POINTS_AT_ONCE):
            some = slice(first, first + POINTS_AT_ONCE)
            # padded, since kernels round differently by shape
            queries = F.pad(query_xy_norm[some], (0, 0, 0, POINTS_AT_ONCE - len(query_xy_norm[some])))
            scores = self._logits(fields, queries, hw, _MASS_MAP_HW)
            score = self._scores_in_cells(fields, queries, hw)
            answers_xy = finer_answers(best_cells(scores), score, low_xy, high_xy)
            xy_px = rescale_px(answers_xy, _MASS_MAP_HW, hw)
            count = len(query_xy_norm[some])
            answers_px[some] = xy_px[:count].cpu().numpy()
            for number, temperature in enumerate(temperatures):
                masses[number, some] = point_mass(scores, xy_px, hw, temperature)[:count].cpu().numpy()
        return answers_px, masses

    def _scores_in_cells(
        self, fields: Sequence["_Field"], query_xy_norm: Float[Tensor, "k 2"], reference_hw: Size
    ) -> Callable[[Float[Tensor, "k n 2"]], Float[Tensor, "k n"]]:
        """The field's logits of each query point at places given in cells of the map."""

        def score(places_xy: Float[Tensor, "k n 2"]) -> Float[Tensor, "k n"]:
            places_xy_norm = px_to_norm(rescale_px(places_xy, _MASS_MAP_HW, reference_hw), reference_hw)
            query_index = torch.arange(len(places_xy), device=self.device).repeat_interleave(places_xy.shape[1])
            logits = self._mean_logits(fields, query_xy_norm, places_xy_norm.clamp(-1, 1).flatten(0, 1), query_index)
            return logits.view(places_xy.shape[:2])

        return score

    def search(self, encoded: EncodedField, pairs: Sequence[ImagePair]) -> list[Float[Tensor, "2 _ _"]]:
        """The normalised reference (x, y) of the best match of every pixel, or grid pixel, of each query image.

        For a pair that is not dense, only the pixels that its points are read from are valid.
        """
        points_px = [None if pair.dense else self._points_px(pair) for pair in pairs]
        return self._search(encoded, pairs, [_query_hw(pair) for pair in pairs], points_px, self.config.grid_strides)

    @torch.no_grad()
    def _search(
        self,
        encoded: EncodedField,
        pairs: Sequence[ImagePair],
        sizes: Sequence[Size],
        points_px: Sequence[Float[Tensor, "_ 2"] | None],
        strides: Sequence[int],
    ) -> list[Float[Tensor, "2 _ _"]]:
        """The fields on grids over query images that have these sizes; see pixel_grids."""
        config = self.config
        keys = torch.tensor([pair_key(config.seed, pair.pair_id) for pair in pairs], device=self.device)
        grids = pixel_grids(sizes, points_px, strides, config.patchmatch_steps, self.device)
        fields: list[Tensor] = []
        for level, pixels in enumerate(grids):
            initial = [initial_field(encoded.select(i, i + 1), hw)[0] for i, hw in enumerate(pixels.sizes)]
            best_xy_norm = search_pixels(
                self.model.scorer(encoded, pixels.image, pixels.xy_norm(), fused=self._fused),
                pixels,
                pixels.gather(initial),
                config.patchmatch_steps,
                config.radius_norm,
                partial(counter_uniform, keys + level, pixels),
                start_xy_norm=sample_coarse(fields, pixels) if fields else None,
                radius_decay=config.radius_decay,
                neighbour_offset=config.neighbour_offset,
            )
            fields = pixels.scatter(best_xy_norm, initial)
        return fields

    @torch.no_grad()
    def refine(
        self, encoded: EncodedField, fields_norm: Sequence[Float[Tensor, "2 _ _"]], pairs: Sequence[ImagePair]
    ) -> list[Match]:
        """The matches of the pairs, from the fields of `search`, on whatever grids."""
        query, start = [], []
        for pair, field in zip(pairs, fields_norm, strict=True):
            hw, grid_hw = _query_hw(pair), (field.shape[1], field.shape[2])
            points_px, nodes_px = self._points_px(pair), self._nodes_px(pair, grid_hw)
            field_px = torch.cat([on_grid(points_px, hw, grid_hw), nodes_px])
            start.append(sample_field(field[None], field_px[None])[0])
            query.append(torch.cat([px_to_norm(points_px, hw), px_to_norm(nodes_px, grid_hw)]))
        per_pair = zip(pairs, fields_norm, self._refine_all(encoded, query, start), strict=True)
        return [
            self._match(encoded.select(i, i + 1), pair, (field.shape[1], field.shape[2]), xy_norm)
            for i, (pair, field, (xy_norm, _)) in enumerate(per_pair)
        ]

    def _flow_maps(
        self, encoded: EncodedField, pairs: Sequence[ImagePair], matches: Sequence[Match]
    ) -> list["_FlowMap"]:
        """The map of each pair's flow, from the matches of its points; empty for a pair that is not dense."""
        grids = [_nodes_hw(_query_hw(pair), self.config.flow_nodes) if pair.dense else (0, 0) for pair in pairs]
        nodes_px = [self._nodes_px(pair, hw) for pair, hw in zip(pairs, grids, strict=True)]
        sizes = [_nodes_hw(_query_hw(pair), self.config.flow_nodes) for pair in pairs]
        searched = [None if pair.dense else xy_px for pair, xy_px in zip(pairs, nodes_px, strict=True)]
        fields = self._search(encoded, pairs, sizes, searched, (1,))
        query = [px_to_norm(xy_px, hw) for xy_px, hw in zip(nodes_px, sizes, strict=True)]
        start = [sample_field(field[None], xy_px[None])[0] for field, xy_px in zip(fields, nodes_px, strict=True)]
        refined = self._refine_all(encoded, query, start)
        per_pair = zip(pairs, matches, grids, refined, strict=True)
        return [self._flow_map(pair, match, hw, *nodes) for pair, match, hw, nodes in per_pair]

    def _flow_map(
        self,
        pair: ImagePair,
        match: Match,
        grid_hw: Size,
        reference_xy_norm: Float[Tensor, "n 2"],
        logit: Float[Tensor, " n"],
    ) -> "_FlowMap":
        """The map that the answers of nodes make, with the answers of the pair's points."""
        query_hw, reference_hw = _query_hw(pair), _reference_hw(pair)
        if len(logit) == 0:
            return _FlowMap(answer_px=torch.zeros(*grid_hw, 2), sureness=0.0)
        nodes_xy_px = norm_to_px(px_to_norm(pixel_grid(grid_hw), grid_hw), query_hw)
        reference_xy_px = norm_to_px(reference_xy_norm.cpu(), reference_hw).view(*grid_hw, 2)
        points_px = self._points_px(pair).cpu()
        smooth_px, agreement = flow_map.smoothed(
            (reference_xy_px - nodes_xy_px).numpy(),
            logit.cpu().view(grid_hw).numpy(),
            reference_hw,
            on_grid(points_px, query_hw, grid_hw).numpy(),
            match.reference_xy_px - points_px.numpy(),
        )
        sureness = float((logit.cpu().view(grid_hw).sigmoid().double().numpy() * agreement).mean())
        return _FlowMap(answer_px=nodes_xy_px + torch.from_numpy(smooth_px).float(), sureness=sureness)

    @torch.no_grad()
    def _flow(
        self, encoded: EncodedField, pair: ImagePair, nodes: "_FlowMap"
    ) -> tuple[Float32[np.ndarray, "h w 2"], Float32[np.ndarray, "h w"]]:
        """The answer of every pixel, and its confidence. encoded: of this pair alone."""
        hw, confidence = _query_hw(pair), self._flow_confidence(encoded, pair, nodes.answer_px)
        return _upsample(nodes.answer_px, hw).numpy(), _upsample(confidence[..., None], hw)[..., 0].numpy()

    def _refine_all(
        self, encoded: EncodedField, query_xy_norm: Sequence[Float[Tensor, "_ 2"]], start_xy_norm: Sequence[Tensor]
    ) -> list[tuple[Float[Tensor, "_ 2"], Float[Tensor, " _"]]]:
        """Refined reference points of each pair's query points, and the field's logits there."""
        counts = [len(xy_norm) for xy_norm in query_xy_norm]
        pair_index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(self.device)
        xy_norm, logit = self._refine(
            encoded, pair_index, torch.cat(list(query_xy_norm)), torch.cat(list(start_xy_norm))
        )
        return list(zip(xy_norm.split(counts), logit.split(counts), strict=True))

    def _refine(
        self,
        encoded: EncodedField,
        pair: Int64[Tensor, " n"],
        query_xy_norm: Float[Tensor, "n 2"],
        start_xy_norm: Float[Tensor, "n 2"],
    ) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
        """Refined reference points, and the field's logits there."""
        n_points, config = len(pair), self.config
        scorer = self.model.scorer(
            encoded, pair, query_xy_norm, positional_gradient=config.positional_gradient, fused=self._fused
        )
        query_index = torch.arange(n_points, device=self.device)
        # on a CPU the steps of the optimiser round by position in a vector, unless all vectors have one length
        tile_size = TILE["cpu"] if self.device.type == "cpu" else max(n_points, 1)
        query_index = F.pad(query_index, (0, -n_points % tile_size))
        refined_xy_norm, logits = [start_xy_norm[:0]], [start_xy_norm[:0, 0]]

        def score(index: Int64[Tensor, " n"], reference_xy_norm: Float[Tensor, "1 n 2"], /) -> Float[Tensor, "1 n"]:
            return scorer(reference_xy_norm[0], index)[None]

        for tile in query_index.split(tile_size):
            tile_score = partial(score, tile)
            refined = refine(
                tile_score, start_xy_norm[None, tile], config.refine_steps, config.refine_lr, config.radius_norm
            )
            refined_xy_norm.append(refined[0])
            logits.append(tile_score(refined)[0])
        return torch.cat(refined_xy_norm)[:n_points], torch.cat(logits)[:n_points]

    def _match(
        self, encoded: EncodedField, pair: ImagePair, grid_hw: tuple[int, int], reference_xy_norm: Float[Tensor, "n 2"]
    ) -> Match:
        """The match of a pair, from the answers for its points followed by those for the pixels of the flow's grid.

        encoded: of this pair alone.
        """
        hw, points_px = _query_hw(pair), self._points_px(pair)
        reference_xy_px = norm_to_px(reference_xy_norm, _reference_hw(pair))
        points_answer_px, nodes_answer_px = reference_xy_px[: len(points_px)], reference_xy_px[len(points_px) :]
        flow_px = flow_confidence = None
        if pair.dense:
            nodes_answer_px = nodes_answer_px.cpu().view(*grid_hw, 2)
            flow_px = (_upsample(nodes_answer_px, hw) - pixel_grid(hw)).numpy()
            confidence = self._flow_confidence(encoded, pair, nodes_answer_px)
            flow_confidence = _upsample(confidence[..., None], hw)[..., 0].numpy()
        (mass,) = self._point_masses(encoded, pair, points_answer_px, [self.calibration.temperature])
        return Match(
            reference_xy_px=points_answer_px.cpu().numpy(),
            point_confidence=self.calibration.confidence(mass).astype(np.float32),
            flow_px=flow_px,
            flow_confidence=flow_confidence,
        )

    @torch.no_grad()
    def masses(self, pair: ImagePair, temperatures: Sequence[float]) -> tuple[Match, Float32[np.ndarray, "t k"]]:
        """The pair's match, and the mass of each of its points' answers at every temperature."""
        encoded = self.encode([pair])
        if self.config.point_search != "patchmatch":
            mirrored = self.encode([_Mirrored().pair(pair)]) if self._is_mirrored else None
            fields = _fields(encoded, mirrored, 0)
            _, masses = self._read_maps(fields, pair, temperatures)
            return self._match_by_map(fields, pair), masses
        (match,) = self.refine(encoded, self.search(encoded, [pair]), [pair])
        answers_xy_px = torch.from_numpy(match.reference_xy_px).to(self.device)
        return match, self._point_masses(encoded, pair, answers_xy_px, temperatures)

    def _point_masses(
        self,
        encoded: EncodedField,
        pair: ImagePair,
        answers_xy_px: Float[Tensor, "k 2"],
        temperatures: Sequence[float],
    ) -> Float32[np.ndarray, "t k"]:
        """The mass of answers to the pair's points. encoded: of this pair alone."""
        reference_hw = _reference_hw(pair)
        query_xy_norm = px_to_norm(self._points_px(pair), _query_hw(pair))
        masses = np.zeros((len(temperatures), len(query_xy_norm)), np.float32)
        for first in range(0, len(query_xy_norm), POINTS_AT_ONCE):
            some = slice(first, first + POINTS_AT_ONCE)
            scores = self._logits([_Field(encoded=encoded)], query_xy_norm[some], reference_hw, _MASS_MAP_HW)
            for number, temperature in enumerate(temperatures):
                mass = point_mass(scores, answers_xy_px[some], reference_hw, temperature)
                masses[number, some] = mass.cpu().numpy()
        return masses

    def _flow_confidence(
        self, encoded: EncodedField, pair: ImagePair, answers_xy_px: Float[Tensor, "gh gw 2"]
    ) -> Float[Tensor, "gh gw"]:
        """The confidence of answers to the pixels of a grid over the query image, as align-corners."""
        query_hw, reference_hw = _query_hw(pair), _reference_hw(pair)
        grid_hw = answers_xy_px.shape[0], answers_xy_px.shape[1]
        places_xy_px = rescale_px(pixel_grid(_FLOW_PLACES_HW).view(-1, 2), _FLOW_PLACES_HW, query_hw)
        places_xy_norm = px_to_norm(places_xy_px, query_hw).clamp(-1, 1).to(self.device)
        scores = self._logits([_Field(encoded=encoded)], places_xy_norm, reference_hw, _MASS_MAP_HW)
        maps = mass_maps(scores, reference_hw, self.calibration.temperature).cpu()
        nodes_xy_px = norm_to_px(px_to_norm(pixel_grid(grid_hw).view(-1, 2), grid_hw), query_hw)
        mass = flow_mass(maps, _FLOW_PLACES_HW, nodes_xy_px, answers_xy_px.view(-1, 2), query_hw, reference_hw)
        return torch.from_numpy(self.calibration.confidence(mass.numpy()).astype(np.float32)).view(grid_hw)

    @torch.no_grad()
    def _logits(
        self,
        fields: Sequence["_Field"],
        query_xy_norm: Float[Tensor, "k 2"],
        reference_hw: Size,
        map_hw: Size,
    ) -> Float[Tensor, "k h w"]:
        """The logits of query points of one pair at the centres of cells that tile the reference.

        The centre of a cell that is smaller than a pixel may lie outside the pixels' centres; the nearest place between
        them is scored then.
        """
        centres_xy_px = rescale_px(pixel_grid(map_hw).view(-1, 2), map_hw, reference_hw)
        reference_xy_norm = px_to_norm(centres_xy_px, reference_hw).clamp(-1, 1).to(self.device)
        k, n = len(query_xy_norm), len(reference_xy_norm)
        maps = [reference_xy_norm.new_zeros(0, n)]
        for first in range(0, k, POINTS_AT_ONCE):
            count = min(POINTS_AT_ONCE, k - first)
            queries, index = query_xy_norm[first : first + count], torch.arange(count, device=self.device)
            places = reference_xy_norm.repeat(count, 1)
            maps.append(self._mean_logits(fields, queries, places, index.repeat_interleave(n)).view(-1, n))
        return torch.cat(maps).view(k, *map_hw)

    def _mean_logits(
        self,
        fields: Sequence["_Field"],
        query_xy_norm: Float[Tensor, "k 2"],
        reference_xy_norm: Float[Tensor, "n 2"],
        query_index: Int64[Tensor, " n"],
    ) -> Float[Tensor, " n"]:
        """The mean of the fields' logits of reference points, each at the query point of its index."""
        of_pair = torch.zeros(len(query_xy_norm), dtype=torch.int64, device=self.device)
        logits = []
        for field in fields:
            scorer = self.model.scorer(field.encoded, of_pair, field.seen(query_xy_norm), fused=self._fused)
            logits.append(scorer(field.seen(reference_xy_norm), query_index).float())
        return logits[0] if len(logits) == 1 else (logits[0] + logits[1]) / 2

    @torch.no_grad()
    def _score_maps(self, fields: Sequence["_Field"], pair: ImagePair) -> Float32[np.ndarray, "k h w"]:
        """The field's logits of a pair's points at the centres of 64 x 64 cells of the reference: a sigmoid would make
        the great ones equal."""
        query_xy_norm = px_to_norm(self._points_px(pair), _query_hw(pair))
        return self._logits(fields, query_xy_norm, _reference_hw(pair), _SCORE_MAP_HW).cpu().numpy()

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
        query_xy_norm = px_to_norm(self._points_px(pair), _query_hw(pair))
        query_index = torch.zeros(len(reference_xy_norm), dtype=torch.int64, device=self.device)
        scorer = self.model.scorer(self.encode([pair]), query_index[:1], query_xy_norm, fused=self._fused)
        return scorer(reference_xy_norm.to(self.device), query_index).sigmoid().cpu().numpy()

    def _groups(self, pairs: Sequence[ImagePair]) -> Iterator[list[ImagePair]]:
        """The pairs in groups that are matched together, bounded by the memory that they take."""
        max_pixels = _MAX_GROUP_PIXELS[self.device.type]
        group: list[ImagePair] = []
        n_pixels = 0
        for pair in pairs:
            height, width = _query_hw(pair)
            pair_pixels = height * width // 16
            if pair.dense:
                pair_pixels = pair_pixels + self.config.flow_nodes**2 if self.config.flow_nodes else height * width
            if group and (len(group) == _MAX_GROUP_PAIRS or n_pixels + pair_pixels > max_pixels):
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
        height, width = _query_hw(pair)
        points = np.zeros((0, 2), np.float32) if pair.query_xy_px is None else pair.query_xy_px
        inside = np.clip(points, 0, np.array([width - 1, height - 1], np.float32))
        return torch.from_numpy(inside).to(self.device)

    def _nodes_px(self, pair: ImagePair, grid_hw: tuple[int, int]) -> Float[Tensor, "n 2"]:
        """The grid pixels that the flow is refined at; empty for a pair without flow."""
        grid = pixel_grid(grid_hw) if pair.dense else torch.zeros(0, 2)
        return grid.view(-1, 2).to(self.device)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Field:
    """The field of one pair, of its images or of both mirrored."""

    encoded: EncodedField
    is_mirrored: bool = False

    def seen(self, xy_norm: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
        """Points of the images as they are in those that were encoded."""
        return xy_norm * xy_norm.new_tensor([-1, 1]) if self.is_mirrored else xy_norm


def _fields(encoded: EncodedField, mirrored: EncodedField | None, index: int) -> list[_Field]:
    """The fields of the pair of that index."""
    fields = [_Field(encoded=encoded.select(index, index + 1))]
    if mirrored is not None:
        fields.append(_Field(encoded=mirrored.select(index, index + 1), is_mirrored=True))
    return fields


class _Mirrored:
    """Mirrored copies of images, one for each array object, so that each is encoded once."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[RGB, RGB]] = {}

    def pair(self, pair: ImagePair) -> ImagePair:
        """The pair with both images mirrored; its points stay as they are."""
        query_rgb, reference_rgb = (self._copy(rgb) for rgb in (pair.query_rgb, pair.reference_rgb))
        return replace(pair, query_rgb=query_rgb, reference_rgb=reference_rgb)

    def query(self, pair: ImagePair) -> ImagePair:
        """The pair with its query and its points mirrored."""
        query_rgb, points = self._copy(pair.query_rgb), pair.query_xy_px
        if points is not None:
            points = np.stack([np.float32(query_rgb.shape[1] - 1) - points[:, 0], points[:, 1]], axis=1)
        return replace(pair, query_rgb=query_rgb, query_xy_px=points)

    def _copy(self, rgb: RGB) -> RGB:
        if id(rgb) not in self._copies:
            self._copies[id(rgb)] = (rgb, np.ascontiguousarray(rgb[:, ::-1]))
        return self._copies[id(rgb)][1]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _FlowMap:
    """A map of a pair's flow, at nodes."""

    answer_px: Float[Tensor, "gh gw 2"]
    """Where in the reference the nodes are."""
    sureness: float
    """Mean of the scores of the nodes' own answers, 0..1, each times how far it agrees with the map."""


def _fused_score(model: NeMF) -> FusedScore:
    # Triton comes with PyTorch for CUDA only
    from nemf.model import field_triton

    return partial(field_triton.score, field_triton.KernelWeights.from_field(model.field))


def _nodes_hw(hw: Size, nodes: int) -> Size:
    """The grid over an image that has so many nodes along the longer side, as far apart along the other, if there are
    so many pixels."""
    step = max(max(hw) / nodes, 1)
    height, width = (max(round(side / step), min(side, 2)) for side in hw)
    return height, width


def _upsample(values: Float[Tensor, "_ _ c"], hw: tuple[int, int]) -> Float[Tensor, "h w c"]:
    """Values at all pixels of an image, interpolated between those of a grid over it (bilinear, align-corners)."""
    if values.shape[:2] == hw:
        return values
    maps = F.interpolate(values.permute(2, 0, 1)[None], hw, mode="bilinear", align_corners=True)
    return maps[0].permute(1, 2, 0).contiguous()


def _query_hw(pair: ImagePair) -> tuple[int, int]:
    return pair.query_rgb.shape[0], pair.query_rgb.shape[1]


def _reference_hw(pair: ImagePair) -> tuple[int, int]:
    return pair.reference_rgb.shape[0], pair.reference_rgb.shape[1]
