"""How far ahead a match's place is of the best other one, in the matcher's own scores."""

import numpy as np

from nemf.matcher import ImagePair, Match
from pipeline.matching.score_maps import centres_px, checked_maps
from schemas.matches import MARGIN_RADIUS


def point_margins(pair: ImagePair, match: Match) -> list[float | None]:
    """The column point_margin of MATCHES, from a match whose points are known to fit the pair.

    Near is what lies within MARGIN_RADIUS of the answer, and the cell nearest to it, however far that is. Null for a
    point that all cells are near. Below 0 where the matcher's best place is another than its answer.
    Raises InvalidMatchError for a match without score maps, or with such that do not fit the points.
    """
    hw = (pair.reference_rgb.shape[0], pair.reference_rgb.shape[1])
    maps = checked_maps(match, len(match.reference_xy_px), "margin")
    cells_xy_px = centres_px(maps, hw)
    margins: list[float | None] = []
    for answer_xy_px, scores in zip(match.reference_xy_px, maps, strict=True):
        distance_px = np.linalg.norm(cells_xy_px - answer_xy_px, axis=2)
        is_near = distance_px <= max(MARGIN_RADIUS * max(hw), distance_px.min())
        far = scores[~is_near]
        margins.append(float(scores[is_near].max() - far.max()) if far.size else None)
    return margins
