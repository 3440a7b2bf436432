"""Mirror images of a pair's images."""

from dataclasses import replace

import numpy as np

from nemf.matcher import RGB, ImagePair


class Mirror:
    """Mirrors images left to right, keeping one copy for each array object, so that each is made and read once."""

    def __init__(self) -> None:
        self._copies: dict[int, tuple[RGB, RGB]] = {}

    def pair(self, pair: ImagePair) -> ImagePair:
        """The pair with both images mirrored; its points stay as they are."""
        return replace(pair, query_rgb=self._copy(pair.query_rgb), reference_rgb=self._copy(pair.reference_rgb))

    def query(self, pair: ImagePair) -> ImagePair:
        """The pair with its query image and its points mirrored."""
        query_rgb, points = self._copy(pair.query_rgb), pair.query_xy_px
        if points is not None:
            points = np.stack([np.float32(query_rgb.shape[1] - 1) - points[:, 0], points[:, 1]], axis=1)
        return replace(pair, query_rgb=query_rgb, query_xy_px=points)

    def _copy(self, rgb: RGB) -> RGB:
        # the original is kept too: its id is then no other array's
        if id(rgb) not in self._copies:
            self._copies[id(rgb)] = (rgb, np.ascontiguousarray(rgb[:, ::-1]))
        return self._copies[id(rgb)][1]
