"""The nearest neighbour in feature space: a baseline without training.

Both images are squashed to a square and become cells with unit feature vectors. A query point takes the feature under
it; its match is where the cosine with the reference's features, interpolated to cells a quarter as wide, is greatest,
or rather the middle of what matches round that place.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from PIL import Image
from torch import Tensor

from nemf.calibration import Calibration
from nemf.coordinates import pixel_grid, px_to_norm, rescale_px
from nemf.matcher import RGB, ImagePair, Match, Matcher
from nemf.matchers.confidence import POINTS_AT_ONCE, point_mass
from nemf.matchers.deterministic import deterministic
from nemf.matchers.feature_cache import FeatureCache, KeptFeatures
from nemf.matchers.salience import dissimilarity, length
from nemf.matchers.table import COMMON_OPTIONS
from nemf.model.backbone import Backbone, load_backbone
from nemf.model.backbone_config import BACKBONE_OPTIONS
from nemf.model.descriptors import Descriptors
from nemf.model.for_matching import for_matching
from nemf.model.image_sizes import fitting_size
from nemf.model.pooling import generalised_mean
from nemf.options import parse_options

Size = tuple[int, int]

FITS = ("squash", "letterbox")
PRECISIONS = ("float32", "bfloat16")
MAX_IMAGE_SIZE = 1024

CALIBRATION = Calibration(
    temperature=0.04,
    mass=(0.0, 0.0478, 0.0641, 0.0762, 0.0904, 0.1089, 0.1331, 0.177, 0.3091, 1.0),
    probability=(0.001, 0.0537, 0.0823, 0.1055, 0.136, 0.1628, 0.2004, 0.2987, 0.457, 0.999),
)
"""What makes the confidence: fitted to Animal-Pose's validation pairs, with MobileNetV1 (ImageNet)."""

WINDOW, TEMPERATURE = 0.1, 0.03
"""The read-out chosen on validation pairs, for convolutional networks and vision transformers: docs/matchers.md."""

_CODE_VERSION = 5
_IMAGE_SIZE = 320
_ENCODE_PIXELS = {"cpu": 0, "cuda": 32 * 320**2}
"""Pixels of squashed images that are encoded together, one image at least. A matcher's batches are of one size, padded:
kernels round differently by shape."""
_UPSAMPLING = 4


def build(name: str, *, backbone_weights: str | None, device: torch.device) -> "NearestNeighbourMatcher":
    """The matcher called 'nearest-neighbour:LIBRARY/MODEL' or 'nearest-neighbour:dense-sift', with options after a '?'.

    Raises ValueError for an unknown model or option, and as load_backbone does.
    """
    backbone_name, _, text = name.removeprefix("nearest-neighbour:").partition("?")
    options = matcher_options(name, text, BACKBONE_OPTIONS)
    if backbone_name == "dense-sift":
        if unused := options.keys() & {*BACKBONE_OPTIONS, "precision"}:
            raise ValueError(f"{name}: {', '.join(sorted(unused))} is for networks: leave it out")
        from nemf.model.dense_sift import dense_sift  # imports kornia, which no other matcher needs

        backbone = dense_sift()
    else:
        backbone = load_backbone(
            backbone_name,
            None if backbone_weights is None else Path(backbone_weights),
            options.get("layers"),
            image_size=options.get("image_size", _IMAGE_SIZE),
            norm=options.pop("norm", False),
        )
    return NearestNeighbourMatcher(name, backbone, device, **options)


def matcher_options(name: str, text: str, further: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The options of a NearestNeighbourMatcher in a text, and those of the types `further`; raises ValueError as
    parse_options does."""
    types = {"window": float, "temperature": float, "image_size": int, "fit": str, "precision": str}
    return parse_options(name, text, types | dict(further or {}), COMMON_OPTIONS)


class NearestNeighbourMatcher(Matcher):
    """Matches by the cosine of backbone features.

    window, temperature: the answer is the mean of the score cells within a share `window` of the image's sides of the
        best one's column and row, weighted by softmax(cosine / temperature), which is finer than a cell and prefers a
        broad peak's middle to its highest cell. window=0: the centre of the best cell.
    image_size: side S of the square that the network sees, in pixels, 320 by default; rounded, with a warning unless
        nobody asked, to a multiple of the patch of a vision transformer, else of 16, or to the one size that a network
        takes. Features live on (S/8, S/8) cells, rounded, of the whole image, and matches on four times as many a side.
    fit: 'squash' stretches an image to that square; 'letterbox' scales it, sides in proportion, and fills the rest of
        the square with the mean colour, in which no cell lies.
    layers: the backbone was loaded with its maps of these indices, and all are read, each at unit length. By default
        the deepest map of at least (S/16, S/16) is, or (S/patch, S/patch) if that is coarser; the finest where none is.
    precision: of the backbone and neck; see nemf.model.for_matching.

    calibration: makes the confidence (nemf.calibration) of the mass of the cosines of the point's feature with the
        reference's feature cells; by default CALIBRATION.

    A query point outside its image takes the feature nearest to it. A score map is the cosine at every score cell. For
    the flow each feature cell's centre is matched, nemf.flow_map makes a map of these matches that has the points'
    matches at the points, and the pixels between are interpolated bilinearly; its confidence is that of the cells'
    matches, times how far the map agrees with them.
    """

    def __init__(
        self,
        name: str,
        backbone: Backbone | Descriptors,
        device: torch.device,
        *,
        window: float = WINDOW,
        temperature: float = TEMPERATURE,
        image_size: int | None = None,
        fit: str = "squash",
        layers: tuple[int, ...] | None = None,
        precision: str = "float32",
        calibration: Calibration | None = None,
    ) -> None:
        if not 0 <= window <= 0.5:
            raise ValueError(f"{name}: window must be a share of the image's sides from 0 to 0.5; got {window}")
        if not 0.001 <= temperature <= 10:
            raise ValueError(f"{name}: temperature must be 0.001 to 10; got {temperature}")
        if fit not in FITS:
            raise ValueError(f"{name}: fit must be one of {', '.join(FITS)}; got {fit!r}")
        if precision not in PRECISIONS:
            raise ValueError(f"{name}: precision must be one of {', '.join(PRECISIONS)}; got {precision!r}")
        self.name = name
        self.window = window
        self.temperature = temperature
        self.fit = fit
        self.device = device
        self.calibration = calibration or CALIBRATION
        asked = _IMAGE_SIZE if image_size is None else image_size
        self.image_size, cells = fitting_size(
            name, backbone.to(device), asked, most=MAX_IMAGE_SIZE, insist=image_size is not None
        )
        self.backbone = for_matching(backbone, device, self.image_size, bfloat16=precision == "bfloat16")
        if image_size not in (None, self.image_size):
            step = backbone.only_size or backbone.size_step
            logging.getLogger("nemf").warning(
                f"{name}: image_size {image_size} becomes {self.image_size}, a multiple of {step}"
            )
        self.squashed_side = self.image_size if fit == "squash" else None
        self.levels = [_deepest_level(cells, self.image_size // max(backbone.size_step, 16))]
        if layers is not None:
            self.levels = [*range(len(cells))]
        self.cell_size = self.image_size / min(cells[level] for level in self.levels)
        self.cells_hw = (round(self.image_size / 8), round(self.image_size / 8))
        self.score_hw = (_UPSAMPLING * self.cells_hw[0], _UPSAMPLING * self.cells_hw[1])
        self._kept = KeptFeatures()
        configuration = [_CODE_VERSION, backbone.digest(), self.image_size, window, temperature]
        configuration.append(asdict(self.calibration))
        configuration += [option for option in (fit if fit != "squash" else None, layers) if option is not None]
        if precision != "float32":
            configuration.append(precision)
        self._encode_batch = max(1, _ENCODE_PIXELS[device.type] // self.image_size**2)
        if isinstance(backbone, Descriptors) and backbone.corners_aligned:
            configuration.append("corners aligned")
        self.fingerprint = hashlib.sha256(json.dumps(configuration).encode()).hexdigest()[:16]

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterator[Match]:
        cache = self._cache()
        pairs_at_once = max(1, self._encode_batch // 2)  # they fill a batch if no two show the same image
        for first in range(0, len(pairs), pairs_at_once):
            group = pairs[first : first + pairs_at_once]
            cells = cache.encode([rgb for pair in group for rgb in (pair.query_rgb, pair.reference_rgb)])
            for pair, (query,), (reference,) in zip(group, cells[::2], cells[1::2], strict=True):
                yield self._match(pair, query, reference)

    @torch.inference_mode()
    def salience(self, rgb: RGB) -> Float32[np.ndarray, "h w"]:
        """The length of trained descriptors, else the dissimilarity of the features, see nemf.matchers.salience."""
        if isinstance(self.backbone, Descriptors) and self.backbone.neck is not None:
            with deterministic():
                descriptors = self.backbone.maps(self._batch([self._square(rgb)]))[0]
            return length((descriptors if self.fit == "squash" else self._cells(descriptors, [rgb.shape[:2]]))[0])
        return dissimilarity(self.encode(rgb))

    def encode(self, rgb: RGB) -> Float[Tensor, "c h w"]:
        """Unit feature vectors of the image's cells."""
        (cells,) = self._encoded([rgb])
        return cells

    def _cache(self) -> FeatureCache:
        return FeatureCache(lambda images: [[features] for features in self._encoded(images)], self._kept)

    @torch.inference_mode()
    def _encoded(self, images: Sequence[RGB]) -> list[Float[Tensor, "c h w"]]:
        """The same of each of some images, which depend on that image alone."""
        encoded: list[Tensor] = []
        for maps, images_hw in self._maps(images):
            levels = [self._cells(maps[level], images_hw) for level in self.levels]
            for i in range(len(images_hw)):
                cells = [F.normalize(level[i], dim=0) for level in levels]
                encoded.append(cells[0] if len(cells) == 1 else F.normalize(torch.cat(cells), dim=0))
        return encoded

    def embed(self, images: Iterable[RGB]) -> Iterator[Float32[np.ndarray, " c"]]:
        """The backbone's deepest map, pooled; see nemf.matcher.ImageEmbedder."""
        for maps, images_hw in self._maps(images):
            with torch.inference_mode():
                deepest = maps[-1] if self.fit == "squash" else self._cells(maps[-1], images_hw)
                pooled = generalised_mean(deepest)[: len(images_hw)].float().cpu().numpy()
            yield from pooled

    def _maps(self, images: Iterable[RGB]) -> Iterator[tuple[list[Tensor], list[Size]]]:
        """The backbone's maps (b, c, h, w) of batches of the images, and the sizes of the images of each batch.

        Maps beyond as many are of padding.
        The images are taken as they are needed.
        """
        remaining = ((self._square(rgb), (rgb.shape[0], rgb.shape[1])) for rgb in images)
        while batch := list(islice(remaining, self._encode_batch)):
            with torch.inference_mode(), deterministic():
                maps = self.backbone(self._batch([square for square, _ in batch]))
            yield maps, [hw for _, hw in batch]

    def _square(self, rgb: RGB) -> RGB:
        """The square that the backbone sees of an image."""
        size = self.image_size
        if self.fit == "squash":
            return np.array(Image.fromarray(rgb).resize((size, size), Image.Resampling.BILINEAR))
        (height, width), (left, top) = _letterbox((rgb.shape[0], rgb.shape[1]), size)
        mean = (255 * self.backbone.mean.flatten()).round().to(torch.uint8).cpu().numpy()
        square = np.broadcast_to(mean, (size, size, 3)).copy()
        resized = Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR)
        square[top : top + height, left : left + width] = np.array(resized)
        return square

    def _batch(self, squares: Sequence[RGB]) -> Float[Tensor, "b 3 s s"]:
        """Squares, normalised as the backbone wants, and zeros up to the one size of all batches."""
        padding = [np.zeros_like(squares[0])] * (self._encode_batch - len(squares))
        images = torch.from_numpy(np.stack([*squares, *padding])).to(self.device).permute(0, 3, 1, 2) / 255
        return (images - self.backbone.mean) / self.backbone.std

    def _cells(self, features: Float[Tensor, "b c h w"], images_hw: Sequence[Size]) -> Float[Tensor, "b c hc wc"]:
        """Maps of squares read at the centres of the cells that tile their images; those of padding hold anything.

        A backbone's cells tile the square; the centres of the outermost cells of a trained network's maps lie on its
        edges, as its losses have it.
        """
        square_hw, map_hw = (self.image_size, self.image_size), (features.shape[2], features.shape[3])
        aligned = isinstance(self.backbone, Descriptors) and self.backbone.corners_aligned
        if self.fit == "squash" and not aligned:
            return F.interpolate(features, self.cells_hw, mode="bilinear", align_corners=False)
        grids = []
        for hw in images_hw:
            inner_hw, corner_xy_px = (square_hw, (0, 0)) if self.fit == "squash" else _letterbox(hw, self.image_size)
            xy_px = rescale_px(pixel_grid(self.cells_hw), self.cells_hw, inner_hw) + torch.tensor(corner_xy_px)
            grids.append(
                px_to_norm(xy_px, square_hw) if aligned else px_to_norm(rescale_px(xy_px, square_hw, map_hw), map_hw)
            )
        grids += [grids[0]] * (len(features) - len(grids))
        grid = torch.stack(grids).to(features)
        return F.grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=True)

    @torch.inference_mode()
    def _match(self, pair: ImagePair, query: Tensor, reference: Tensor) -> Match:
        query_hw, reference_hw = pair.query_hw, pair.reference_hw
        temperatures = [self.calibration.temperature]

        def search(query_xy_px: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            answers_xy_px, cosine, masses = self._search(pair, query, reference, query_xy_px, temperatures)
            confidence = self.calibration.confidence(masses[0].cpu().numpy()).astype(np.float32)
            return answers_xy_px.cpu(), cosine.cpu(), torch.from_numpy(confidence)

        points = np.zeros((0, 2), np.float32) if pair.query_xy_px is None else pair.query_xy_px
        reference_xy_px, _, point_confidence = search(torch.tensor(points))
        flow_px = flow_confidence = None
        if pair.dense:
            from nemf import flow_map  # imports scipy, which points do not need

            inside_px = torch.tensor(points).clamp(min=0).minimum(torch.tensor([query_hw[1] - 1, query_hw[0] - 1]))
            centres_xy_px = rescale_px(pixel_grid(self.cells_hw), self.cells_hw, query_hw).view(-1, 2)
            matched_xy_px, cosine, confidence = search(centres_xy_px)
            smooth_px, agreement = flow_map.smoothed(
                (matched_xy_px - centres_xy_px).view(*self.cells_hw, 2).numpy(),
                cosine.view(self.cells_hw).numpy(),
                reference_hw,
                rescale_px(inside_px, query_hw, self.cells_hw).numpy(),
                (reference_xy_px - inside_px).numpy(),
            )
            sure = confidence.view(*self.cells_hw, 1) * torch.from_numpy(agreement[..., None])
            by_cell = torch.cat([torch.from_numpy(smooth_px), sure], dim=2).float().permute(2, 0, 1)[None]
            by_pixel = F.interpolate(by_cell, query_hw, mode="bilinear", align_corners=False)[0]
            flow_px = by_pixel[:2].permute(1, 2, 0).contiguous().numpy()
            flow_confidence = by_pixel[2].clamp(0, 1).numpy()
        score_maps = None
        if pair.score_maps:
            points_xy = rescale_px(torch.tensor(points, device=self.device), query_hw, self.cells_hw)
            score_maps = self._score_maps(query, reference, points_xy).cpu().numpy()
        return Match(
            reference_xy_px=reference_xy_px.numpy(),
            point_confidence=point_confidence.numpy(),
            flow_px=flow_px,
            flow_confidence=flow_confidence,
            answer_grid_hw=None if self._radius else self.score_hw,
            score_maps=score_maps,
        )

    @torch.inference_mode()
    def masses(self, pair: ImagePair, temperatures: Sequence[float]) -> tuple[Match, Float32[np.ndarray, "t k"]]:
        """The pair's match, and the mass of each of its points' answers at every temperature."""
        (query,), (reference,) = self._cache().encode([pair.query_rgb, pair.reference_rgb])
        points_px = torch.zeros(0, 2) if pair.query_xy_px is None else torch.tensor(pair.query_xy_px)
        _, _, masses = self._search(pair, query, reference, points_px, temperatures)
        return self._match(pair, query, reference), masses.cpu().numpy()

    def _search(
        self,
        pair: ImagePair,
        query: Float[Tensor, "c h w"],
        reference: Float[Tensor, "c hr wr"],
        query_xy_px: Float[Tensor, "k 2"],
        temperatures: Sequence[float],
    ) -> tuple[Float[Tensor, "k 2"], Float[Tensor, " k"], Float[Tensor, "t k"]]:
        """The matches of query points in pixels of the reference, their greatest cosines, and their masses at every
        temperature.

        Tiles have one shape, whatever the number of points: kernels round differently for different shapes.
        """
        query_hw, reference_hw = pair.query_hw, pair.reference_hw
        query_xy = rescale_px(query_xy_px.to(self.device), query_hw, self.cells_hw)
        answers_xy_px, best = [query_xy[:0]], [query_xy[:0, 0]]
        masses = [query_xy.new_zeros(len(temperatures), 0)]
        for tile in _tiles(query_xy) if len(query_xy) else ():
            cosine = self._cosines(query, reference, tile)
            tile_xy, tile_best = self._read_out(self._upsample(cosine))
            tile_xy_px = rescale_px(tile_xy, self.score_hw, reference_hw)
            answers_xy_px.append(tile_xy_px)
            best.append(tile_best)
            masses.append(torch.stack([point_mass(cosine, tile_xy_px, reference_hw, t) for t in temperatures]))
        n_points = len(query_xy)
        return torch.cat(answers_xy_px)[:n_points], torch.cat(best)[:n_points], torch.cat(masses, dim=1)[:, :n_points]

    def _read_out(self, score: Float[Tensor, "k hs ws"]) -> tuple[Float[Tensor, "k 2"], Float[Tensor, " k"]]:
        """The (x, y) of the match in score cells, and the greatest cosine."""
        best, index = score.flatten(1).max(dim=1)
        best_xy = torch.stack([index % self.score_hw[1], index // self.score_hw[1]], dim=1)
        return (self._centre_of_mass(score, best, best_xy) if self._radius else best_xy.float()), best

    def _score_maps(
        self, query: Float[Tensor, "c h w"], reference: Float[Tensor, "c hr wr"], query_xy: Float[Tensor, "k 2"]
    ) -> Float[Tensor, "k hs ws"]:
        """The cosines of points in query cells with all score cells of the reference."""
        empty = query.new_zeros(0, *self.score_hw)
        tiles = _tiles(query_xy) if len(query_xy) else ()
        maps = [self._upsample(self._cosines(query, reference, tile)) for tile in tiles]
        return torch.cat([empty, *maps])[: len(query_xy)]

    def _cosines(
        self, query: Float[Tensor, "c h w"], reference: Float[Tensor, "c h w"], query_xy: Float[Tensor, "k 2"]
    ) -> Float[Tensor, "k h w"]:
        """The cosines of points in query cells with the reference's cells."""
        grid = px_to_norm(query_xy, self.cells_hw)[None, None]
        sampled = F.grid_sample(query[None], grid, mode="bilinear", padding_mode="border", align_corners=True)
        features = F.normalize(sampled[0, :, 0].T, dim=1)
        return (features @ reference.flatten(1)).view(-1, *self.cells_hw)

    def _upsample(self, cosine: Float[Tensor, "k h w"]) -> Float[Tensor, "k hs ws"]:
        """The cosines at the score cells."""
        return F.interpolate(cosine[:, None], self.score_hw, mode="bicubic", align_corners=False)[:, 0]

    @property
    def _radius(self) -> int:
        """The window's half, in score cells."""
        return round(self.window * self.score_hw[0])

    def _centre_of_mass(
        self, score: Float[Tensor, "k hs ws"], best: Float[Tensor, " k"], best_xy: Int64[Tensor, "k 2"]
    ) -> Float[Tensor, "k 2"]:
        """The (x, y), in cells, of the mean of the cells in a window round the best one."""
        rows, columns = self.score_hw
        step = torch.arange(-self._radius, self._radius + 1, device=score.device)
        x, y = best_xy[:, :1] + step, best_xy[:, 1:] + step
        inside = ((y >= 0) & (y < rows))[:, :, None] & ((x >= 0) & (x < columns))[:, None]
        cell = y.clamp(0, rows - 1)[:, :, None] * columns + x.clamp(0, columns - 1)[:, None]
        near = score.flatten(1).gather(1, cell.flatten(1)).view_as(cell)
        weight = inside * torch.exp((near - best[:, None, None]) / self.temperature)
        sums = [(weight.sum(dim=1) * x).sum(dim=1), (weight.sum(dim=2) * y).sum(dim=1)]
        return torch.stack(sums, dim=1) / weight.sum(dim=(1, 2))[:, None]


def _deepest_level(cells: Sequence[int], min_cells: int) -> int:
    """The index of the deepest map with so many cells a side, or of the finest."""
    fine = [level for level, n_cells in enumerate(cells) if n_cells >= min_cells]
    return fine[-1] if fine else int(np.argmax(cells))


def _letterbox(image_hw: Size, image_size: int) -> tuple[Size, tuple[int, int]]:
    """Rows and columns of an image in a square with sides in proportion, and the (x, y) of its corner, in pixels."""
    longest = max(image_hw)
    height, width = (max(round(side * image_size / longest), 1) for side in image_hw)
    return (height, width), ((image_size - width) // 2, (image_size - height) // 2)


def _tiles(query_xy: Float[Tensor, "k 2"]) -> tuple[Tensor, ...]:
    """The points, padded with zeros to whole tiles."""
    return F.pad(query_xy, (0, 0, 0, -len(query_xy) % POINTS_AT_ONCE)).split(POINTS_AT_ONCE)
