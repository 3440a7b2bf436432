"""Matching inside the boxes of the manifest, `nemf match --crop boxes`: crops of a pair's images, and the way back.

The reference's box is an annotation of what is searched for: numbers made this way are named (IN_BOXES), since they
answer an easier question than those of whole images.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nemf.crop import Crop
from nemf.matcher import ImagePair
from pipeline.matching.options import BOX_MARGIN
from pipeline.matching.scores import ScoredKeypoints
from schemas.failures import FailureError

IN_BOXES = " in the manifest's boxes"
"""What follows the name of a matcher, in column `matcher` of MATCHES, where its images were cropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Crops:
    """The crops of a pair's two images."""

    query: Crop
    reference: Crop

    def pair_in_crops(self, pair: ImagePair) -> ImagePair:
        """The pair of whole images as one of the crops."""
        return replace(
            pair,
            query_rgb=self.query.cut(pair.query_rgb),
            reference_rgb=self.reference.cut(pair.reference_rgb),
            query_xy_px=None if pair.query_xy_px is None else self.query.to_crop(pair.query_xy_px),
        )

    def scored_in_crops(self, keypoints: ScoredKeypoints) -> ScoredKeypoints:
        """Keypoints of the whole images in pixels of the crops; T stays that of the box."""
        truth = {name: self.reference.to_crop(xy_px[None])[0] for name, xy_px in keypoints.truth_xy_px.items()}
        return replace(keypoints, query_xy_px=self.query.to_crop(keypoints.query_xy_px), truth_xy_px=truth)

    def columns_in_images(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of MATCHES of the crops as those of the whole images; no grid over a crop is one over its image."""
        moved = dict(columns)
        if columns.get("reference_xy_px"):
            first_pixel_px = np.array([self.reference.x0, self.reference.y0], np.float64)
            moved["reference_xy_px"] = (np.array(columns["reference_xy_px"]) + first_pixel_px).tolist()
        if "answer_grid_hw" in columns and self.reference.share < 1:
            moved["answer_grid_hw"] = None
        return moved


def box_crops(pair: Mapping[str, Any], query_side: str, reference_side: str, images: ImagePair) -> Crops:
    """The crops of a PAIRS row's images to their boxes, each widened by BOX_MARGIN of its longer side.

    The query's crop holds its points too, where they lie outside the box and inside the image.
    Raises FailureError of stage manifest: no_box for an image without a box, bad_box for one without extent in it.
    """
    query = _to_box(pair, query_side, images.query_rgb, images.query_xy_px)
    return Crops(query=query, reference=_to_box(pair, reference_side, images.reference_rgb, None))


def _to_box(pair: Mapping[str, Any], side: str, rgb: np.ndarray, points_px: np.ndarray | None) -> Crop:
    hw = (rgb.shape[0], rgb.shape[1])
    box_xyxy = pair[f"{side}_box_xyxy"]
    if box_xyxy is None or None in box_xyxy:
        raise FailureError(
            "manifest", "no_box", f"{side}_box_xyxy is null, and --crop boxes needs a box of both images"
        )
    low, high = np.array(box_xyxy[:2], np.float64), np.array(box_xyxy[2:], np.float64)
    last = np.array([hw[1] - 1, hw[0] - 1])
    if not (np.isfinite([low, high]).all() and (low < high).all() and (low <= last).all() and (high >= 0).all()):
        raise FailureError(
            "manifest",
            "bad_box",
            f"{side}_box_xyxy {box_xyxy} is no box with an extent in an image of {hw[1]} x {hw[0]} pixels",
        )
    margin_px = BOX_MARGIN * float((high - low).max())
    low, high = low - margin_px, high + margin_px
    if points_px is not None and len(points_px):
        inside = np.clip(points_px.astype(np.float64), 0, last)
        low, high = np.minimum(low, inside.min(axis=0)), np.maximum(high, inside.max(axis=0))
    return Crop.around(low, high, hw)
