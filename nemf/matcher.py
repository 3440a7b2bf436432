"""What every matcher is: pairs of images in, matches out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from nemf.pixels import to_rgb

RGB = UInt8[np.ndarray, "_ _ 3"]
Points = Float32[np.ndarray, "k 2"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImagePair:
    """One question to a matcher: where in the reference image is what the query image shows?

    Pairs of one batch that show the same image should hold the same array object: matchers encode an object once.
    """

    query_rgb: RGB
    reference_rgb: RGB
    query_xy_px: Points | None = None
    """Points of the query image to find in the reference; None or K = 0 asks for none. May lie outside."""
    dense: bool = False
    """Ask for the flow of every query pixel too."""
    pair_id: str = ""
    """What random draws depend on, so that a pair's answer does not depend on its batch."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Match:
    """The answer to one ImagePair."""

    reference_xy_px: Points
    """Where each query point is in the reference image; may lie outside it."""
    point_confidence: Float32[np.ndarray, " k"]
    """0..1, higher is surer; comparable within one matcher only."""
    flow_px: Float32[np.ndarray, "h w 2"] | None = None
    """Displacement (dx, dy) from each query pixel (x, y) to its place in the reference; None unless asked for."""
    flow_confidence: Float32[np.ndarray, "h w"] | None = None
    """0..1 per query pixel; None unless the flow was asked for."""


@runtime_checkable
class Matcher(Protocol):
    """Anything that matches. Subclass it, set the two attributes and write match_batch."""

    name: str
    """The name that load_matcher built it from."""
    fingerprint: str
    """Changes whenever an answer may change: weights, configuration and the version of the code."""

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        """One Match per pair, in order. A pair's answer does not depend on the other pairs."""
        ...

    def match(
        self,
        query_rgb: np.ndarray | Tensor | Image.Image,
        reference_rgb: np.ndarray | Tensor | Image.Image,
        query_xy_px: Sequence[Sequence[float | int]] | np.ndarray | Tensor | None = None,
        *,
        dense: bool | None = None,
    ) -> Match:
        """Match one pair of images, each (H, W, 3) uint8 RGB as numpy array, torch tensor or PIL image.

        query_xy_px: (K, 2) points (x, y) in pixels of the query image.
        dense: whether to compute the flow as well; by default only when no points are asked for.
        Raises ValueError when an image or the points have another shape or dtype, or points are not finite.
        """
        points = None if query_xy_px is None else as_points(query_xy_px)
        pair = ImagePair(
            query_rgb=as_rgb(query_rgb, "query"),
            reference_rgb=as_rgb(reference_rgb, "reference"),
            query_xy_px=points,
            dense=points is None if dense is None else dense,
        )
        return self.match_batch([pair])[0]


def as_rgb(image: np.ndarray | Tensor | Image.Image, what: str) -> RGB:
    """The image as an (H, W, 3) uint8 array; ValueError naming `what` if it is something else."""
    if isinstance(image, Image.Image):
        return to_rgb(image)
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(
            f"{what} image must be RGB of shape (H, W, 3), dtype uint8; got shape {array.shape}, dtype {array.dtype}"
        )
    return array


def as_points(xy_px: Sequence[Sequence[float | int]] | np.ndarray | Tensor) -> Points:
    """Points as a (K, 2) float32 array; ValueError if they are something else or not finite."""
    array = xy_px.detach().cpu().numpy() if isinstance(xy_px, Tensor) else np.asarray(xy_px)
    if array.size == 0:
        return np.zeros((0, 2), np.float32)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"points must have shape (K, 2), one (x, y) in pixels each; got shape {array.shape}")
    points = array.astype(np.float32)
    if not np.isfinite(points).all():
        bad = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise ValueError(f"points must be finite; point {bad} is {tuple(points[bad].tolist())}")
    return points
