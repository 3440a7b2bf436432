"""The interface of every matcher: from pairs of images to matches.

A matcher of your own is a class with match_batch, and a function that makes it. A whole one, in a file my_matchers.py:

    import numpy as np

    from nemf import Match, Matcher


    class Shift(Matcher):
        '''Every pixel moves by the same number of pixels.'''

        def __init__(self, dx, dy):
            self.name, self.fingerprint = "shift", f"shift 1 {dx} {dy}"
            self.shift_px = np.array([dx, dy], np.float32)

        def match_batch(self, pairs):
            for pair in pairs:
                # None means no points; a dense pair asks for the flow of every query pixel
                points = np.zeros((0, 2), np.float32) if pair.query_xy_px is None else pair.query_xy_px
                hw = pair.query_rgb.shape[:2]
                yield Match(
                    reference_xy_px=points + self.shift_px,
                    point_confidence=np.ones(len(points), np.float32),
                    flow_px=np.broadcast_to(self.shift_px, (*hw, 2)) if pair.dense else None,
                    flow_confidence=np.ones(hw, np.float32) if pair.dense else None,
                )


    def shift(backbone_weights, device):
        return Shift(3, 0)

It is used as `nemf match --matcher my_matchers:shift --pairs pairs.parquet --out runs/shift`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from nemf.rgb import to_rgb

RGB = UInt8[np.ndarray, "_ _ 3"]
Points = Float32[np.ndarray, "k 2"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImagePair:
    """A query image and a reference image to find matches in, with the query points to match.

    Pairs of one batch that show the same image should hold the same array object: matchers read its pixels once then.
    Images must stay as they are during the call.
    Raises ValueError for arrays of another shape or dtype, and points that are not finite.
    """

    query_rgb: np.ndarray
    """Query image, (H, W, 3) uint8."""
    reference_rgb: np.ndarray
    """Reference image, (H, W, 3) uint8."""
    query_xy_px: np.ndarray | None = None
    """(K, 2) float32 points to find in the reference; they may lie outside the query image. None means K = 0."""
    dense: bool = False
    """Whether to compute the flow of every query pixel too."""
    score_maps: bool = False
    """Whether to compute the score map of every query point too; the other answers do not depend on it."""
    pair_id: str = ""
    """Identity of the pair; random numbers depend on it, so that a pair's match does not depend on its batch."""

    def __post_init__(self) -> None:
        _check_rgb(self.query_rgb, "query")
        _check_rgb(self.reference_rgb, "reference")
        if self.query_xy_px is not None and self.query_xy_px.dtype != np.float32:
            raise ValueError(f"query_xy_px must have dtype float32; got {self.query_xy_px.dtype}")
        if self.query_xy_px is not None:
            as_points(self.query_xy_px)

    @property
    def query_hw(self) -> tuple[int, int]:
        """Rows and columns of the query image."""
        return self.query_rgb.shape[0], self.query_rgb.shape[1]

    @property
    def reference_hw(self) -> tuple[int, int]:
        """Rows and columns of the reference image."""
        return self.reference_rgb.shape[0], self.reference_rgb.shape[1]

    def points_inside_px(self) -> Points:
        """The query points, (K, 2), K = 0 for None; one outside the image becomes the nearest pixel centre inside."""
        points = np.zeros((0, 2), np.float32) if self.query_xy_px is None else self.query_xy_px
        height, width = self.query_hw
        return np.clip(points, 0, np.array([width - 1, height - 1], np.float32))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Match:
    """The result for one ImagePair."""

    reference_xy_px: Points
    """The match of each query point in the reference image, (K, 2); may lie outside it."""
    point_confidence: Float32[np.ndarray, " k"]
    """Probability of each match to be correct, (K,), 0..1: within 0.1 T of the true place, T being the longest side of
    the object's box in the reference image, as nemf.calibration says. A matcher that cannot tell gives any number of
    0..1, the greater the surer, comparable within that matcher only."""
    flow_px: Float32[np.ndarray, "h w 2"] | None = None
    """Displacement (dx, dy) from each query pixel to its match in the reference; None unless the pair is dense."""
    flow_confidence: Float32[np.ndarray, "h w"] | None = None
    """The same for the flow at each query pixel, (H, W); None unless the pair is dense."""
    answer_grid_hw: tuple[int, int] | None = None
    """Rows and columns of the grid of cells over the reference image whose centres are the matcher's only answers; None
    for a matcher that may answer with any point."""
    score_maps: Float32[np.ndarray, "k rows columns"] | None = None
    """The score of each query point at the centres of h x w cells that tile the reference image, the greater the surer,
    of any range; None unless the pair asks for score maps."""


@runtime_checkable
class Matcher(Protocol):
    """The interface of matchers. Subclass it, set the two attributes and write match_batch."""

    name: str
    """The name given to load_matcher."""
    fingerprint: str
    """A hash that changes whenever a match may change: with weights, configuration and the version of the code."""

    squashed_side: int | None = None
    """Side, in pixels, of the square that every image is squashed to before anything else is done with it: then large
    images may be given at a reduced scale, with two pixels or more for each of the square. None, as here, for a
    matcher that looks at every pixel."""

    def match_batch(self, pairs: Sequence[ImagePair]) -> Iterable[Match]:
        """One Match per pair, in order, independent of the other pairs.

        A generator is best: matches are stored as they come, and those that came before an error stay.
        """
        ...

    def salience(self, rgb: RGB) -> Float32[np.ndarray, "h w"] | None:
        """How much each of h x w cells that tile the image stands out to the matcher, finite, the greater the more.

        From the image alone; salient points are chosen by it. None, as here, for a matcher without descriptors.
        """
        return None

    def match(
        self,
        query_rgb: np.ndarray | Tensor | Image.Image,
        reference_rgb: np.ndarray | Tensor | Image.Image,
        query_xy_px: Sequence[Sequence[float | int]] | np.ndarray | Tensor | None = None,
        *,
        dense: bool | None = None,
        pair_id: str = "",
    ) -> Match:
        """Match one pair of images, each (H, W, 3) uint8 RGB as numpy array, torch tensor or PIL image.

        query_xy_px: (K, 2) points (x, y) in pixels of the query image.
        dense: whether to compute the flow as well; by default only without query_xy_px.
        pair_id: see ImagePair.
        The result is that of the command `nemf match`, bit for bit, if the pair_id and the pixels are those of its
        manifest, read whole (large photographs are not: see squashed_side), and torch computes on one thread:
        torch.set_num_threads(1) before. With more threads, on another device or machine, or with other versions of the
        libraries, the last bits may differ; with another pair_id, all that a random search finds.
        Raises ValueError when an image or the points have another shape or dtype, or points are not finite.
        """
        points = None if query_xy_px is None else as_points(query_xy_px)
        pair = ImagePair(
            query_rgb=as_rgb(query_rgb, "query"),
            reference_rgb=as_rgb(reference_rgb, "reference"),
            query_xy_px=points,
            dense=points is None if dense is None else dense,
            pair_id=pair_id,
        )
        (match,) = self.match_batch([pair])
        return match


def salience_of(matcher: object, rgb: RGB) -> np.ndarray | None:
    """The salience of a matcher, unchecked; None also for one that does not subclass Matcher and lacks the method."""
    measure = getattr(matcher, "salience", None)
    return None if measure is None else measure(rgb)


def squashed_side_of(matcher: object) -> int | None:
    """The squashed_side of a matcher; None also for one that does not subclass Matcher and lacks it.

    Raises ValueError where it is no number of pixels.
    """
    side = getattr(matcher, "squashed_side", None)
    if side is not None and (type(side) is not int or side < 1):
        raise ValueError(f"squashed_side of a matcher must be a number of pixels, 1 or more, or None; got {side!r}")
    return side


@runtime_checkable
class ImageEmbedder(Protocol):
    """A matcher that can also tell which images look alike; not every matcher can."""

    def embed(self, images: Iterable[np.ndarray]) -> Iterable[Float32[np.ndarray, " c"]]:
        """One vector for each image, (H, W, 3) uint8, in order; it depends on that image alone.

        Images that look alike have vectors of a small angle; their lengths mean nothing.
        """
        ...


def as_rgb(image: np.ndarray | Tensor | Image.Image, what: str) -> RGB:
    """The image as an (H, W, 3) uint8 array; ValueError naming `what` if it is something else."""
    if isinstance(image, Image.Image):
        try:
            array = to_rgb(image)
        except ValueError as error:
            raise ValueError(f"{what} image: {error}") from error
    else:
        array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    _check_rgb(array, what)
    return array


def _check_rgb(array: np.ndarray, what: str) -> None:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(
            f"{what} image must be RGB of shape (H, W, 3), dtype uint8; got shape {array.shape}, dtype {array.dtype}"
        )


def as_points(xy_px: Sequence[Sequence[float | int]] | np.ndarray | Tensor) -> Points:
    """Points as a (K, 2) float32 array; ValueError if they are something else or not finite in float32."""
    try:
        array = xy_px.detach().cpu().numpy() if isinstance(xy_px, Tensor) else np.asarray(xy_px)
    except ValueError as error:
        raise ValueError(
            "points must have shape (K, 2), one (x, y) in pixels each; got rows of other lengths"
        ) from error
    if array.size == 0:
        return np.zeros((0, 2), np.float32)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(f"points must have shape (K, 2), one (x, y) in pixels each; got shape {array.shape}")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"points must be real numbers that a float64 holds; got dtype {array.dtype}")
    finite = (np.abs(array.astype(np.float64)) <= np.finfo(np.float32).max).all(axis=1)
    if not finite.all():
        bad = int(np.flatnonzero(~finite)[0])
        raise ValueError(f"points must be finite; point {bad} is {tuple(array[bad].tolist())}")
    return array.astype(np.float32)
