"""Large photographs read at a reduced scale: what the matcher sees, and the way back to pixels of the whole images.

A matcher that squashes what it sees to a small square (nemf.Matcher.squashed_side) needs no photograph of 12
megapixels: pipeline.io.images.decode_reduced reads a smaller one, in less time and memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.matching.options import CropTo

if TYPE_CHECKING:
    from nemf.matcher import ImagePair  # which imports torch, and planning a run needs none

NEEDS_WHOLE = ("flow", "cycle", "margin", "scores")
"""The outputs whose numbers are of single pixels, or of distances in them: for these images are read whole."""
_CODE_VERSION = 1

HW = tuple[int, int]


def reduced_side(squashed_side: int | None, outputs: Sequence[str], crop: CropTo) -> int | None:
    """The side that images are to be reduced for, see decode_reduced; None where they are needed whole.

    squashed_side: that of the matcher.
    """
    is_possible = crop == "none" and not set(outputs) & set(NEEDS_WHOLE)
    return squashed_side if is_possible else None


def shaping(side: int | None) -> dict[str, object]:
    """What of it enters the fingerprint of a run: nothing where images are read whole."""
    return {} if side is None else {"reduced": [side, _CODE_VERSION]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reductions:
    """The sizes of a pair's images, whole and as they were read."""

    query_hw: HW
    reference_hw: HW
    read_query_hw: HW
    read_reference_hw: HW

    @property
    def is_reduced(self) -> bool:
        """Whether either image was read at a reduced scale."""
        return (self.query_hw, self.reference_hw) != (self.read_query_hw, self.read_reference_hw)

    def pair_as_read(self, pair: "ImagePair") -> "ImagePair":
        """The pair with its points, which are in pixels of the whole query, in pixels of the one that was read."""
        if pair.query_xy_px is None:
            return pair
        moved = _rescaled(pair.query_xy_px, self.query_hw, self.read_query_hw)
        return replace(pair, query_xy_px=moved.astype(np.float32))

    def columns_in_images(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of MATCHES of the images as they were read as those of the whole images."""
        moved = dict(columns)
        if columns.get("reference_xy_px"):
            moved["reference_xy_px"] = self.in_reference(np.array(columns["reference_xy_px"])).tolist()
        return moved

    def in_reference(self, answers_xy_px: np.ndarray) -> np.ndarray:
        """Answers in pixels of the reference that was read, in pixels of the whole one."""
        return _rescaled(answers_xy_px, self.read_reference_hw, self.reference_hw)


def _rescaled(xy_px: np.ndarray, from_hw: HW, to_hw: HW) -> np.ndarray:
    """As nemf.coordinates.rescale_px, in float64; points of an image that is not resized stay as they are."""
    if from_hw == to_hw:
        return xy_px
    scale = np.array([to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]])
    return (xy_px.astype(np.float64) + 0.5) * scale - 0.5
