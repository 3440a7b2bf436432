"""Rows of a PAIRS manifest as training examples, their images decoded when they are asked for.

A row that cannot be used is remembered with the reason, and the next row that can be takes its place: which example a
step sees depends on the manifest and the images only.
"""

import hashlib
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from nemf.matcher import RGB, as_points
from nemf.training.example import Box, Example, View
from pipeline import storage
from pipeline.images import ImageError, decode_image, fetch_image
from pipeline.manifest import INLINE_COLUMNS, iter_rows, manifest_files, read_pairs

CACHE_BYTES = 512 * 2**20
TRIES = 1000
"""So many rows one after the other that cannot be used are taken for a mistake of whoever gave the manifest."""

MIN_SIDE_PX = 16
"""Smaller images tell nothing, and what augmentation leaves of them may be a single pixel."""

_SIDES = ("source", "target")
_READ_ROWS = 64


class ImageCache:
    """The images used last, as many as fit; for several threads."""

    def __init__(self, n_bytes: int = CACHE_BYTES) -> None:
        self._left = n_bytes
        self._images: OrderedDict[str, RGB] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str, load: Callable[[], RGB]) -> RGB:
        """The image called `key`, loaded unless it is there. Nobody may write to it."""
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
        rgb = load()
        with self._lock:
            if key not in self._images:
                self._images[key] = rgb
                self._left -= rgb.nbytes
            while self._left < 0:
                self._left += self._images.popitem(last=False)[1].nbytes
        return rgb


class TrainingPairs:
    """One manifest's examples.

    pairs_uri: what manifest_files reads. Inline images are held in memory as they are stored, each once.
    image_root: what relative URIs are below.
    Raises FileNotFoundError and ValueError as read_pairs does, and ValueError for a manifest without rows.
    """

    def __init__(self, pairs_uri: str, image_root: str | None, cache: ImageCache) -> None:
        self.uri = pairs_uri
        self.unusable: dict[str, str] = {}
        """Reasons by pair_id, of the rows that were asked for and could not be used."""
        self._rows = read_pairs(pairs_uri).combine_chunks()
        if not len(self):
            raise ValueError(f"{pairs_uri}: the manifest has no rows")
        self._image_root = image_root
        self._cache = cache
        self._inline: dict[str, bytes] = {}
        self._keys = self._hold_inline_images()

    def __len__(self) -> int:
        return self._rows.num_rows

    def example(self, row: int) -> Example:
        """The example of a row, its points all inside their images; of the next row that has one, else.

        Raises ValueError where TRIES rows, or all, cannot be used.
        """
        n_tries = min(TRIES, len(self))
        for number in range(row, row + n_tries):
            pair = self._rows.slice(number % len(self), 1).to_pylist()[0]
            if pair["pair_id"] in self.unusable:
                continue
            try:
                return self._example(pair, number % len(self))
            except ValueError as error:
                self.unusable[pair["pair_id"]] = " ".join(str(error).split())
        pair_id, reason = next(iter(self.unusable.items()))
        raise ValueError(f"{self.uri}: {n_tries} rows one after the other cannot be used, such as {pair_id}: {reason}")

    def _example(self, pair: dict[str, Any], row: int) -> Example:
        """Raises ValueError for a row that cannot be used."""
        names = pair["keypoint_id"]
        if names is not None and None in names:
            names = None
        points = {side: _points(pair, side) for side in _SIDES}  # before any image is fetched
        if not min(map(len, points.values())):
            raise ValueError("it has no keypoints in both images")
        views = {
            side: View(rgb=self._rgb(pair, side, row), xy_px=points[side], box_xyxy=_box(pair, side)) for side in _SIDES
        }
        for side, view in views.items():
            if min(view.hw) < MIN_SIDE_PX:
                raise ValueError(f"the {side} image must be at least {MIN_SIDE_PX} pixels high and wide; got {view.hw}")
        found = Example(**views, keypoint_id=None if names is None else tuple(names)).inside()
        if not len(found):
            raise ValueError("no keypoint lies inside both images")
        return found

    def _rgb(self, pair: dict[str, Any], side: str, row: int) -> RGB:
        digest, uri = self._keys.get((row, side)), pair[f"{side}_uri"]
        if digest is not None:
            data = self._inline[digest]
            return self._cache.get(digest, lambda: decode_image(data, f"inline {side} image"))
        if not uri:
            raise ImageError("fetch", "no_image", f"the row has neither {side}_uri nor {side}_image")
        resolved = storage.resolve(uri, self._image_root)
        return self._cache.get(resolved, lambda: decode_image(fetch_image(resolved), resolved))

    def _hold_inline_images(self) -> dict[tuple[int, str], str]:
        """Digests of the inline images by row number and side."""
        keys, position = {}, 0
        for file in manifest_files(self.uri):
            for _, _, rows in iter_rows(file, ["pair_id", *INLINE_COLUMNS], _READ_ROWS):
                for side in _SIDES:
                    for number, data in enumerate(rows[f"{side}_image"].to_pylist()):
                        if data is not None:
                            digest = hashlib.sha256(data).hexdigest()
                            self._inline.setdefault(digest, data)
                            keys[position + number, side] = digest
                position += rows.num_rows
        return keys


def _points(pair: dict[str, Any], side: str) -> np.ndarray:
    known = [point or (math.nan, math.nan) for point in pair[f"{side}_xy_px"] or []]
    try:
        return as_points(np.array(known, np.float32))
    except ValueError as error:
        raise ValueError(f"{side}_xy_px: {error}") from error


def _box(pair: dict[str, Any], side: str) -> Box | None:
    box = pair[f"{side}_box_xyxy"]
    if box is None:
        return None
    x_min, y_min, x_max, y_max = box
    if not (all(map(math.isfinite, box)) and x_min <= x_max and y_min <= y_max):
        raise ValueError(f"{side}_box_xyxy must be x_min, y_min, x_max, y_max; got {box}")
    return x_min, y_min, x_max, y_max
