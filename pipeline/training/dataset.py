"""Rows of a PAIRS manifest as training examples, their images decoded on access.

The source image of a row becomes the reference of the example, its target image the query (see nemf/training/batch.py).
A row that cannot be used is recorded with the reason, and the next usable row is taken in its stead, so that the
example of a step depends on the manifest and the images only.
"""

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
from torch import Generator

from nemf.matcher import RGB, Points, as_points
from nemf.training.example import Box, Example, View
from nemf.training.rng import chance, uniform
from pipeline.io import storage
from pipeline.io.images import ImageError, decode_image, fetch_image
from pipeline.io.manifest import INLINE_COLUMNS, Manifest, read_pairs

CACHE_BYTES = 512 * 2**20
MAX_UNUSABLE_ROWS = 1000
"""Maximum number of consecutive unusable rows; more are an error in the manifest."""

MIN_SIDE_PX = 16
"""Minimum side of an image; augmentation could crop a smaller one to a single pixel."""

Side = Literal["source", "target"]
"""The image of a manifest row."""
_SIDES: tuple[Side, Side] = ("source", "target")
Result = TypeVar("Result")
_READ_ROWS = 64


class ImageCache:
    """The most recently used images, up to n_bytes of pixels; thread-safe."""

    def __init__(self, n_bytes: int = CACHE_BYTES) -> None:
        self._free_bytes = n_bytes
        self._images: OrderedDict[str, RGB] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, load: Callable[[], RGB]) -> RGB:
        """The image of this key, loaded unless it is cached. Read-only."""
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
        rgb = load()
        with self._lock:
            if key not in self._images:
                self._images[key] = rgb
                self._free_bytes -= rgb.nbytes
            while self._free_bytes < 0:
                self._free_bytes += self._images.popitem(last=False)[1].nbytes
        return rgb


class TrainingPairs:
    """The examples of one manifest.

    pairs_uri: a manifest, one Parquet file or a folder of them. Inline images are held in memory, encoded, each once.
    image_root: folder of relative image URIs.
    names_across_categories: whether keypoints of one name match across categories too.
    Raises FileNotFoundError and ValueError as read_pairs does, and ValueError for a manifest without rows.
    """

    def __init__(
        self, pairs_uri: str, image_root: str | None, cache: ImageCache, *, names_across_categories: bool = False
    ) -> None:
        self.uri = pairs_uri
        self._names_across_categories = names_across_categories
        self.unusable: dict[str, str] = {}
        """Reasons by pair_id, of the rows accessed so far that cannot be used."""
        self._failed: dict[tuple[str, int], str] = {}  # reasons by use and row: a row may be usable for another use
        self._rows = read_pairs(pairs_uri).combine_chunks()
        if not len(self):
            raise ValueError(f"{pairs_uri}: the manifest has no rows")
        self._image_root = image_root
        self._cache = cache
        self._inline: dict[str, bytes] = {}
        self._digests = self._read_inline_images()

    def __len__(self) -> int:
        return self._rows.num_rows

    def example(self, row: int) -> Example:
        """The example of a row, or of the next usable row; all its points lie inside their images.

        Raises ValueError where MAX_UNUSABLE_ROWS rows, or all, cannot be used.
        """
        return self._first_usable(row, "example", self._example)

    def photograph(self, row: int, side: Side) -> RGB:
        """One image of a row, or of the next row where it is usable; keypoints are not needed.

        Raises ValueError as `example` does.
        """
        return self._first_usable(row, side, lambda pair, number: self._rgb(pair, side, number))

    def unusable_rows(self) -> list[dict[str, str]]:
        """`unusable` as rows of a table."""
        return [
            {"pairs": self.uri, "pair_id": pair_id, "reason": reason}
            for pair_id, reason in sorted(self.unusable.copy().items())
        ]

    def _first_usable(self, row: int, use: str, read: Callable[[dict[str, Any], int], Result]) -> Result:
        """`read(pair, row)` of the first row, from `row` on, where it raises no ValueError; `use` names what for."""
        n_rows = min(MAX_UNUSABLE_ROWS, len(self))
        for number in range(row, row + n_rows):
            number %= len(self)
            if (use, number) in self._failed:
                continue
            pair = self._rows.slice(number, 1).to_pylist()[0]
            try:
                return read(pair, number)
            except ValueError as error:
                self._failed[use, number] = " ".join(str(error).split())
                self.unusable[pair["pair_id"]] = self._failed[use, number]
        failed = self._rows["pair_id"][row % len(self)].as_py()
        reason = self._failed[use, row % len(self)]
        raise ValueError(f"{self.uri}: {n_rows} rows one after the other cannot be used, such as {failed}: {reason}")

    def _example(self, pair: dict[str, Any], row: int) -> Example:
        """The example of a row. Raises ValueError if it cannot be used."""
        names = pair["keypoint_id"]
        if names is not None and None in names:
            names = None
        points = {side: _points(pair, side) for side in _SIDES}  # before any image is fetched
        if not min(map(len, points.values())):
            raise ValueError("it has no keypoints in both images")
        counts = {f"{side} points": len(points[side]) for side in _SIDES}
        if names is not None:
            counts["keypoint_id"] = len(names)
        probability = _probability(pair)
        if probability is not None:
            counts["keypoint_probability"] = len(probability)
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(
                f"it needs as many points in both images, and a name and a probability for each, or none; got {listed}"
            )
        views = {
            side: View(rgb=self._rgb(pair, side, row), xy_px=points[side], box_xyxy=_box(pair, side)) for side in _SIDES
        }
        category = "" if self._names_across_categories else f"{self.uri} {pair['category'] or row}"
        if probability is not None:
            category = f"{self.uri} row {row}"  # a matcher's points of one name are one only within their pair
        keypoint_id = None if names is None else tuple(names)
        example = Example(
            reference=views["source"],
            query=views["target"],
            keypoint_id=keypoint_id,
            category=category,
            probability=probability,
        ).drop_outside_points()
        if not len(example):
            raise ValueError("no keypoint lies inside both images")
        return example

    def _rgb(self, pair: dict[str, Any], side: Side, row: int) -> RGB:
        """The image of one side of a row. Raises ValueError if it cannot be used."""
        rgb = self._decoded(pair, side, row)
        if min(rgb.shape[:2]) < MIN_SIDE_PX:
            raise ValueError(
                f"the {side} image must be at least {MIN_SIDE_PX} pixels high and wide; got {rgb.shape[:2]}"
            )
        return rgb

    def _decoded(self, pair: dict[str, Any], side: Side, row: int) -> RGB:
        digest, uri = self._digests.get((row, side)), pair[f"{side}_uri"]
        if digest is not None:
            data = self._inline[digest]
            return self._cache.get(digest, lambda: decode_image(data, f"inline {side} image"))
        if not uri:
            raise ImageError("fetch", "no_image", f"the row has neither {side}_uri nor {side}_image")
        resolved = storage.resolve(uri, self._image_root)
        return self._cache.get(resolved, lambda: decode_image(fetch_image(resolved), resolved))

    def _read_inline_images(self) -> dict[tuple[int, Side], str]:
        """Holds the inline images by digest, and gives their digests by row number and side."""
        digests: dict[tuple[int, Side], str] = {}
        position = 0
        with Manifest(self.uri) as manifest:
            for window in manifest.windows(["pair_id", *INLINE_COLUMNS], _READ_ROWS):
                for side in _SIDES:
                    for number, data in enumerate(window.rows[f"{side}_image"].to_pylist()):
                        if data is not None:
                            digest = hashlib.sha256(data).hexdigest()
                            self._inline.setdefault(digest, data)
                            digests[position + number, side] = digest
                position += window.rows.num_rows
        return digests


def draw_photograph(manifests: Sequence[TrainingPairs], generator: Generator) -> RGB:
    """A random image of the manifests, all rows equally likely; raises as TrainingPairs.photograph does."""
    row = int(uniform(generator, 0, sum(map(len, manifests))))
    for pairs in manifests:
        if row < len(pairs):
            break
        row -= len(pairs)
    return pairs.photograph(row, "source" if chance(generator, 0.5) else "target")


def _points(pair: dict[str, Any], side: str) -> Points:
    """Points (k, 2) in pixels of one side of a row. Raises ValueError for points that are null or not finite."""
    points = [point or (math.nan, math.nan) for point in pair[f"{side}_xy_px"] or []]
    try:
        return as_points(np.array(points, np.float32))
    except ValueError as error:
        raise ValueError(f"{side}_xy_px: {error}") from error


def _probability(pair: dict[str, Any]) -> np.ndarray | None:
    """The probabilities of the keypoints, None where all are certain. Raises ValueError for one out of range."""
    values = pair["keypoint_probability"]
    if values is None:
        return None
    if not all(value is not None and 0 < value <= 1 for value in values):
        raise ValueError(f"keypoint_probability must be above 0 and at most 1; got {values}")
    return np.array(values, np.float32)


def _box(pair: dict[str, Any], side: str) -> Box | None:
    """The bounding box of one side of a row, None if it has none. Raises ValueError if it is none."""
    box = pair[f"{side}_box_xyxy"]
    if box is None:
        return None
    x_min, y_min, x_max, y_max = box
    if not (all(map(math.isfinite, box)) and x_min <= x_max and y_min <= y_max):
        raise ValueError(f"{side}_box_xyxy must be x_min, y_min, x_max, y_max; got {box}")
    return x_min, y_min, x_max, y_max
