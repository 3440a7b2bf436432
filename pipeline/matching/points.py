"""The points of a query image that are matched: the manifest's keypoints, or points that need no annotation.

    keypoints      those of the manifest
    grid:N         the centres of the N x N cells that the region is divided into, row by row
    salient:N      the N places of the region that stand out most to the matcher, best first
    dense:STRIDE   every STRIDE-th pixel of every STRIDE-th row that is in the region, row by row; x and y start at
                   STRIDE // 2, counted from the image's first pixel

The region is the query's box where the manifest has one, as far as it is in the image, else the whole image, from the
outer edge of its first pixel, -0.5, to that of its last one. The points depend on the image, its box and the matcher
alone.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Float64

from pipeline.io.manifest import MAX_KEYPOINTS
from schemas.failures import FailureError

Kind = Literal["keypoints", "grid", "salient", "dense"]
Points = Float32[np.ndarray, "k 2"]
Salience = Float32[np.ndarray, "h w"]

_CODE_VERSION = 1
_EXPECTED = "keypoints, grid:N, salient:N or dense:STRIDE, with a whole number from 1 up"
_PLACES = 64
"""Least number of places along each side of the region that salient points are chosen from."""


@dataclass(frozen=True, kw_only=True)
class AskedPoints:
    """What --points asks for."""

    kind: Kind = "keypoints"
    number: int = 0
    """N or STRIDE; 0 for keypoints."""

    @property
    def shaping(self) -> dict[str, object]:
        """What of it enters the fingerprint of a run: nothing for keypoints, which were all there was once."""
        return {} if self.kind == "keypoints" else {"points": [self.kind, self.number, _CODE_VERSION]}


def parse_points(text: str) -> AskedPoints:
    """The points that the text of --points asks for.

    Raises ValueError for another text, and for more than MAX_KEYPOINTS points where that is known from the text.
    """
    kind, colon, digits = text.partition(":")
    if text == "keypoints":
        return AskedPoints()
    is_number = colon and digits.isascii() and digits.isdigit() and len(digits) < 10 and int(digits) > 0
    if kind not in get_args(Kind)[1:] or not is_number:
        raise ValueError(f"--points must be {_EXPECTED}; got {text!r}")
    asked = AskedPoints(kind=kind, number=int(digits))  # type: ignore[arg-type]  # checked above
    n_points = {"grid": asked.number**2, "salient": asked.number}.get(kind, 0)
    if n_points > MAX_KEYPOINTS:
        raise ValueError(f"--points {text} are {n_points:,} points a pair; at most {MAX_KEYPOINTS:,}")
    return asked


def place_points(
    asked: AskedPoints,
    hw: tuple[int, int],
    box_xyxy: Sequence[float | None] | None,
    salience: Callable[[], Salience],
) -> Points:
    """The points (x, y), in pixels of a query image of size `hw`, that `asked`, of another kind than keypoints, means.

    box_xyxy: the query's box in the manifest, None for none.
    salience: the matcher's map of the image, see nemf.Matcher.salience; called for salient points alone.
    Raises FailureError for a box without extent in the image, and more than MAX_KEYPOINTS points.
    """
    region_xyxy = _region(hw, box_xyxy)
    if asked.kind == "dense":
        points = _dense(asked.number, hw, region_xyxy)
    elif asked.kind == "salient":
        points = _salient(asked.number, hw, region_xyxy, salience())
    else:
        points = _cell_centres(asked.number, region_xyxy)
    return points.astype(np.float32)


def _region(hw: tuple[int, int], box_xyxy: Sequence[float | None] | None) -> Float64[np.ndarray, " 4"]:
    """The region (x1, y1, x2, y2) that points are in."""
    image_xyxy = np.array([0, 0, hw[1], hw[0]], np.float64) - 0.5
    if box_xyxy is None:
        return image_xyxy
    box = np.array(box_xyxy, np.float64)  # null becomes NaN
    region = np.concatenate([np.maximum(box[:2], image_xyxy[:2]), np.minimum(box[2:], image_xyxy[2:])])
    if not (region[2:] > region[:2]).all():  # nor where one is NaN
        message = f"the query's box {list(box_xyxy)} has no extent in its image of {hw[1]} x {hw[0]} pixels"
        raise FailureError("manifest", "bad_box", message)
    return region


def _cell_centres(n: int, region_xyxy: Float64[np.ndarray, " 4"]) -> Float64[np.ndarray, "k 2"]:
    """The centres of the n x n cells of the region, row by row."""
    share = (np.arange(n) + 0.5) / n
    y, x = np.meshgrid(share, share, indexing="ij")
    low, high = region_xyxy[:2], region_xyxy[2:]
    return low + np.stack([x, y], axis=-1).reshape(-1, 2) * (high - low)


def _dense(stride: int, hw: tuple[int, int], region_xyxy: Float64[np.ndarray, " 4"]) -> Float64[np.ndarray, "k 2"]:
    """Every stride-th pixel of every stride-th row, where its centre is in the region."""
    inside = []
    for size, low, high in zip((hw[1], hw[0]), region_xyxy[:2], region_xyxy[2:], strict=True):
        along = np.arange(stride // 2, size, stride)
        inside.append(along[(along >= low) & (along <= high)])
    x, y = inside
    if len(x) * len(y) > MAX_KEYPOINTS:
        raise FailureError(
            "manifest",
            "too_many_points",
            f"dense:{stride} are {len(x)} x {len(y)} points of this query; at most {MAX_KEYPOINTS}: "
            "take a greater stride, or --outputs flow for every pixel",
        )
    return np.stack(np.meshgrid(x, y, indexing="xy"), axis=-1).reshape(-1, 2).astype(np.float64)


def _salient(
    n: int, hw: tuple[int, int], region_xyxy: Float64[np.ndarray, " 4"], salience: Salience
) -> Float64[np.ndarray, "k 2"]:
    """The n most salient places of the region, best first, none too near a better one.

    Places are the centres of fine cells of the region. Too near is, along x and along y, less than half the step of a
    grid of as many points; so a point rules out less than an nth of the places, and there are always n.
    """
    grid = math.ceil(math.sqrt(n))
    reach = 2 * math.ceil(_PLACES / (4 * grid))
    side = 2 * reach * grid
    places = _cell_centres(side, region_xyxy)
    is_free = np.ones((side, side), bool)
    chosen: list[int] = []
    for place in np.argsort(-_sample(salience, hw, places), kind="stable").tolist():
        row, column = divmod(place, side)
        if is_free[row, column]:
            is_free[max(0, row - reach + 1) : row + reach, max(0, column - reach + 1) : column + reach] = False
            chosen.append(place)
            if len(chosen) == n:
                break
    return places[chosen]


def _sample(cells: Salience, hw: tuple[int, int], xy_px: Float64[np.ndarray, "k 2"]) -> Float64[np.ndarray, " k"]:
    """The values at points of an image of size `hw` of a map of cells that tile it, interpolated bilinearly."""
    size = np.array([cells.shape[1], cells.shape[0]])
    xy = ((xy_px + 0.5) * size / [hw[1], hw[0]] - 0.5).clip(0, size - 1)
    low = np.minimum(xy.astype(np.int64), np.maximum(size - 2, 0))
    high, share = np.minimum(low + 1, size - 1), xy - low
    (x0, y0), (x1, y1), (x, y) = low.T, high.T, share.T
    values = cells.astype(np.float64)
    top = values[y0, x0] * (1 - x) + values[y0, x1] * x
    bottom = values[y1, x0] * (1 - x) + values[y1, x1] * x
    return top * (1 - y) + bottom * y
