"""The score maps of a match, checked, and where their cells are."""

import numpy as np
from jaxtyping import Float, Float64

from nemf.coordinates import pixel_grid, rescale_px
from nemf.matcher import Match
from pipeline.matching.predictions import InvalidMatchError


def checked_maps(match: Match, n_points: int, output: str) -> Float[np.ndarray, "k h w"]:
    """The match's score maps, one for each of its points: finite, of one cell or more.

    output: the member of OUTPUTS that needs them, for the error.
    Raises InvalidMatchError where they are something else.
    """
    maps = getattr(match, "score_maps", None)
    if maps is None:
        raise InvalidMatchError(
            "bad_answer",
            f"the matcher has no scores: leave {output} out of --outputs, or take a matcher with score maps",
        )
    maps = np.asarray(maps)
    if maps.ndim != 3 or len(maps) != n_points or 0 in maps.shape[1:] or not np.issubdtype(maps.dtype, np.floating):
        raise InvalidMatchError(
            "bad_answer", f"score_maps must be float of shape ({n_points}, h, w); got {maps.dtype} of {maps.shape}"
        )
    if not np.isfinite(maps).all():
        raise InvalidMatchError("not_finite", "score_maps has NaN or infinity")
    return maps


def centres_px(maps: Float[np.ndarray, "k h w"], hw: tuple[int, int]) -> Float64[np.ndarray, "h w 2"]:
    """The centres (x, y) of the maps' cells in pixels of the reference image, which has size `hw`."""
    map_hw = (maps.shape[1], maps.shape[2])
    return rescale_px(pixel_grid(map_hw).double(), map_hw, hw).numpy()
