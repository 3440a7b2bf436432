"""NeMF as a matcher: encode the pair, search the field for every point wanted, refine.

The paper's roles: our query image, which has the points, is its *target*; our reference image, which is searched, its
*source*.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from nemf import checkpoints, pretrained
from nemf.coordinates import norm_to_px, pixel_grid, px_to_norm
from nemf.matcher import RGB, ImagePair, Match, Matcher, as_points
from nemf.matchers.feature_cache import KeptFeatures
from nemf.model.backbone import tensors_digest
from nemf.model.network import EncodedField, NeMF, initial_field, squash
from nemf.model.scorer import TILE, FusedScore
from nemf.search.coarse_to_fine import grids, on_grid, start_from
from nemf.search.config import SearchConfig, search_options
from nemf.search.counter_rng import pair_key
from nemf.search.patchmatch import counter_based, search_pixels
from nemf.search.refine import refine
from nemf.search.sample import sample_field

_CODE_VERSION = 5

_ENCODED_AT_ONCE = {"cpu": 1, "cuda": 8}
"""Images and pairs are encoded in batches of this one size, filled up: kernels round differently by shape."""
_PAIRS_AT_ONCE = 8
_PIXELS_AT_ONCE = {"cpu": 2**17, "cuda": 2**21}
"""Pixels that are searched together, unless one pair has more: for each of a dense pair a hidden layer is kept, for
one of another pair a sixteenth of that at most."""


def build(name: str, *, backbone_weights: None, device: torch.device) -> "NemfMatcher":
    """The matcher of a checkpoint folder, or of a network that ships, with settings of the search after a '?'.

    Settings in the name come before those that the checkpoint brings. Raises ValueError for settings that cannot be,
    and as nemf.checkpoints.load does.
    """
    folder, _, query = name.partition("?")
    options = search_options(name, query)
    folder = str(pretrained.folder(folder)) if folder in pretrained.NAMES else folder
    saved = checkpoints.read_search(folder)
    model = checkpoints.load(folder)
    try:
        return NemfMatcher(name, model, device, SearchConfig(**saved | options))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


class NemfMatcher(Matcher):
    """Matches by a NeMF network.

    Confidence is the matching score, sigmoid of the field's logit. Points are found from the query's own pixel grid, or
    from the coarser one that the settings say; a pair of which only points are wanted computes only what they depend
    on. On the pixel grid a point's answer is the flow there. A query point outside
    its image is treated as the nearest one inside.
    """

    def __init__(self, name: str, model: NeMF, device: torch.device, search: SearchConfig | None = None) -> None:
        self.name = name
        self.config = search or SearchConfig()
        backbone = [model.backbone.name, asdict(model.backbone.config)]
        sizes = [model.image_size, model.cost_encoder.heads, TILE[device.type]]  # what no tensor tells
        configuration = [_CODE_VERSION, asdict(self.config), backbone, sizes]
        if self.config.precision == "bfloat16" and device.type != "cuda":
            raise ValueError(f"precision bfloat16 needs a CUDA device; this is {device}: leave the option out")
        self.fingerprint = tensors_digest(model.state_dict(), configuration)[:16]
        self.device = device
        self._at_once = _ENCODED_AT_ONCE[device.type]
        self.model = model.eval().requires_grad_(False).to(device)
        self._fused = _fused_score(self.model) if self.config.precision == "bfloat16" else None

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterator[Match]:
        features = KeptFeatures(self._features)
        for group in self._groups(pairs):
            encoded = self.encode(group, features)
            yield from self.refine(encoded, self.search(encoded, group), group)

    @torch.no_grad()
    def encode(self, pairs: Sequence[ImagePair], kept: KeptFeatures | None = None) -> EncodedField:
        """What the search needs to know of the pairs.

        kept: features of the images, for other pairs to share.
        """
        kept = kept or KeptFeatures(self._features)
        # the same algorithm every time, and no rounding to TF32 where full precision was asked for
        tf32 = self.config.precision != "float32"
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32):
            features = kept.of([rgb for pair in pairs for rgb in (pair.reference_rgb, pair.query_rgb)])
            encoded = []
            for first in range(0, len(pairs), self._at_once):
                count = min(self._at_once, len(pairs) - first)
                batch = features[2 * first : 2 * (first + count)]
                levels = (
                    [self._batch(level) for level in zip(*role, strict=True)] for role in (batch[::2], batch[1::2])
                )
                encoded.append(self.model.encode_features(*levels).pairs(0, count))
        return EncodedField.joined(encoded)

    def _features(self, images: Sequence[RGB]) -> list[list[Float[Tensor, "_ _ _"]]]:
        """The maps to correlate of each of the images."""
        features = []
        for first in range(0, len(images), self._at_once):
            batch = [self._squash(rgb) for rgb in images[first : first + self._at_once]]
            levels = self.model.features(self._batch(batch))
            features += [[level[i].clone() for level in levels] for i in range(len(batch))]
        return features

    def _batch(self, tensors: Sequence[Float[Tensor, "_ _ _"]]) -> Float[Tensor, "_ _ _ _"]:
        """The tensors as a batch of the one size, filled up with zeros."""
        stacked = torch.stack(list(tensors))
        return F.pad(stacked, (0, 0, 0, 0, 0, 0, 0, self._at_once - len(stacked)))

    @torch.no_grad()
    def search(self, encoded: EncodedField, pairs: Sequence[ImagePair]) -> list[Float[Tensor, "2 _ _"]]:
        """The normalised reference point found for every pixel of each query image.

        For a pair that is not dense, only what is read at its points is a result.
        """
        config = self.config
        keys = torch.tensor([pair_key(config.seed, pair.pair_id) for pair in pairs], device=self.device)
        points_px = [None if pair.dense else self._points_px(pair) for pair in pairs]
        sizes = [_query_hw(pair) for pair in pairs]
        fields: list[Tensor] = []
        for level, pixels in enumerate(
            grids(sizes, points_px, config.grid_strides, config.patchmatch_steps, self.device)
        ):
            initial = [initial_field(encoded.pairs(i, i + 1), hw)[0] for i, hw in enumerate(pixels.sizes)]
            found = search_pixels(
                self.model.scorer(encoded, pixels.image, pixels.xy_norm(), fused=self._fused),
                pixels,
                pixels.pick(initial),
                config.patchmatch_steps,
                config.radius_norm,
                partial(counter_based, keys + level, pixels),
                start_xy_norm=start_from(fields, pixels) if fields else None,
                radius_decay=config.radius_decay,
                neighbour_offset=config.neighbour_offset,
            )
            fields = pixels.put(found, initial)
        return fields

    @torch.no_grad()
    def refine(
        self, encoded: EncodedField, fields_norm: Sequence[Float[Tensor, "2 _ _"]], pairs: Sequence[ImagePair]
    ) -> list[Match]:
        """The matches of the pairs, from the fields that the search found, on whatever grids."""
        target, start = [], []
        for pair, field in zip(pairs, fields_norm, strict=True):
            hw, grid_hw = _query_hw(pair), (field.shape[1], field.shape[2])
            points_px, nodes = self._points_px(pair), self._nodes(pair, grid_hw)
            read_at = torch.cat([on_grid(points_px, hw, grid_hw), nodes])
            start.append(sample_field(field[None], read_at[None])[0])
            target.append(torch.cat([px_to_norm(points_px, hw), px_to_norm(nodes, grid_hw)]))
        counts = [len(xy_norm) for xy_norm in target]
        image = torch.arange(len(pairs)).repeat_interleave(torch.tensor(counts)).to(self.device)
        found_norm, confidence = self._refine(encoded, image, torch.cat(target), torch.cat(start))
        answers = zip(pairs, fields_norm, found_norm.split(counts), confidence.split(counts), strict=True)
        return [_match(pair, (field.shape[1], field.shape[2]), *found) for pair, field, *found in answers]

    def _refine(
        self,
        encoded: EncodedField,
        pair: Int64[Tensor, " n"],
        target_xy_norm: Float[Tensor, "n 2"],
        start_xy_norm: Float[Tensor, "n 2"],
    ) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
        """Source points and confidences."""
        n_points, config = len(pair), self.config
        scorer = self.model.scorer(
            encoded, pair, target_xy_norm, positional_gradient=config.positional_gradient, fused=self._fused
        )
        number = torch.arange(n_points, device=self.device)
        # on a CPU the steps of the optimiser round by place in a vector, unless all are filled
        at_once = TILE["cpu"] if self.device.type == "cpu" else max(n_points, 1)
        number = F.pad(number, (0, -n_points % at_once))
        found_xy_norm, confidence = [start_xy_norm[:0]], [start_xy_norm[:0, 0]]

        def score(source_xy_norm: Float[Tensor, "1 n 2"], target: Int64[Tensor, " n"]) -> Float[Tensor, "1 n"]:
            return scorer(source_xy_norm[0], target)[None]

        for tile in number.split(at_once):
            at_targets = partial(score, target=tile)
            found = refine(
                at_targets, start_xy_norm[None, tile], config.refine_steps, config.refine_lr, config.radius_norm
            )
            found_xy_norm.append(found[0])
            confidence.append(at_targets(found)[0].sigmoid())
        return torch.cat(found_xy_norm)[:n_points], torch.cat(confidence)[:n_points]

    @torch.no_grad()
    def score_map(
        self, query_rgb: RGB, reference_rgb: RGB, query_xy_px: Sequence[float | int] | np.ndarray, hw: tuple[int, int]
    ) -> Float32[np.ndarray, "h w"]:
        """The field of one query point: how well each place of the reference image suits it, 0..1.

        query_rgb, reference_rgb: (H, W, 3) uint8.
        query_xy_px: (x, y) in pixels of the query image; outside of it the nearest point inside is taken.
        hw: how many places, evenly spaced from the first pixel's centre to the last one's: the score at [i, j] is that
            of pixel x = j (W - 1) / (w - 1), y = i (H - 1) / (h - 1) of the reference image. One is in the middle.
        A confidence of `match` is this score at the place that was found.
        Raises ValueError for images or a point of another shape or dtype, and fewer than one place.
        """
        if min(hw) < 1:
            raise ValueError(f"a score map needs at least 1 x 1 places; got {hw[0]} x {hw[1]}")
        point_px = as_points(np.reshape(query_xy_px, (1, 2)))
        pair = ImagePair(query_rgb=query_rgb, reference_rgb=reference_rgb, query_xy_px=point_px)
        target_xy_norm = px_to_norm(self._points_px(pair), _query_hw(pair))
        source_xy_norm = px_to_norm(pixel_grid(hw).view(-1, 2).to(self.device), hw)
        point = torch.zeros(len(source_xy_norm), dtype=torch.int64, device=self.device)  # the only one of the only pair
        scorer = self.model.scorer(self.encode([pair]), point[:1], target_xy_norm, fused=self._fused)
        return scorer(source_xy_norm, point).sigmoid().cpu().view(hw).numpy()

    def _groups(self, pairs: Sequence[ImagePair]) -> Iterator[list[ImagePair]]:
        """Runs of pairs that are matched together, within what is to be in memory at once."""
        group: list[ImagePair] = []
        n_pixels = 0
        for pair in pairs:
            height, width = _query_hw(pair)
            pair_pixels = height * width // (1 if pair.dense else 16)
            if group and (len(group) == _PAIRS_AT_ONCE or n_pixels + pair_pixels > _PIXELS_AT_ONCE[self.device.type]):
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
        """The query points, those outside brought to the edge."""
        height, width = _query_hw(pair)
        points = np.zeros((0, 2), np.float32) if pair.query_xy_px is None else pair.query_xy_px
        inside = np.clip(points, 0, np.array([width - 1, height - 1], np.float32))
        return torch.from_numpy(inside).to(self.device)

    def _nodes(self, pair: ImagePair, grid_hw: tuple[int, int]) -> Float[Tensor, "n 2"]:
        """The pixels of the grid that the flow is refined at, none where no flow is wanted."""
        grid = pixel_grid(grid_hw) if pair.dense else torch.zeros(0, 2)
        return grid.view(-1, 2).to(self.device)


def _fused_score(model: NeMF) -> FusedScore:
    # Triton comes with PyTorch for CUDA only
    from nemf.model import field_triton

    return partial(field_triton.score, field_triton.KernelWeights.of(model.field))


def _match(
    pair: ImagePair, grid_hw: tuple[int, int], found_xy_norm: Float[Tensor, "n 2"], confidence: Float[Tensor, " n"]
) -> Match:
    """The answer, from what was found for the points and then for the pixels of the flow's grid."""
    hw = _query_hw(pair)
    found_xy_px = norm_to_px(found_xy_norm.cpu(), (pair.reference_rgb.shape[0], pair.reference_rgb.shape[1]))
    n_points = 0 if pair.query_xy_px is None else len(pair.query_xy_px)
    flow_px = flow_confidence = None
    if pair.dense:
        flow_px = (_spread(found_xy_px[n_points:].view(*grid_hw, 2), hw) - pixel_grid(hw)).numpy()
        flow_confidence = _spread(confidence[n_points:].cpu().view(*grid_hw, 1), hw)[..., 0].numpy()
    return Match(
        reference_xy_px=found_xy_px[:n_points].numpy(),
        point_confidence=confidence[:n_points].cpu().numpy(),
        flow_px=flow_px,
        flow_confidence=flow_confidence,
    )


def _spread(values: Float[Tensor, "_ _ c"], hw: tuple[int, int]) -> Float[Tensor, "h w c"]:
    """Values at all pixels of an image, interpolated between those of a grid over it (bilinear, align-corners)."""
    if values.shape[:2] == hw:
        return values
    maps = F.interpolate(values.permute(2, 0, 1)[None], hw, mode="bilinear", align_corners=True)
    return maps[0].permute(1, 2, 0).contiguous()


def _query_hw(pair: ImagePair) -> tuple[int, int]:
    return pair.query_rgb.shape[0], pair.query_rgb.shape[1]
