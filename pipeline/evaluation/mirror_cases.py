"""Left and right: the keypoints that are each other's mirror image, such as the two ears, and where the twin is.

The cases of GECO (Hartwig et al., ICCV 2025), of keypoints that the reference image has: n11, its twin is labelled
there too; n10, it has a twin that is not; n1x, it has no twin. Their n01 and n00, keypoints that the reference lacks,
are asked by no pair, and in none of their numbers either.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64

from pipeline.evaluation.refuse import refuse, refuse_without_ids

MIRROR_CASES = ("n11", "n10", "n1x")
_BOTH, _ALONE, _WITHOUT_TWIN = range(3)


@dataclass(frozen=True, kw_only=True, eq=False)
class Twins:
    """The twins of N keypoints."""

    case: Int64[np.ndarray, " n"]
    """Index in MIRROR_CASES."""
    xy_px: Float64[np.ndarray, "n 2"]
    """Where the twin is in the reference image; NaN where it is not labelled there."""


def twins(pairs: pa.Table, reference: str, n_points: Int64[np.ndarray, " p"]) -> Twins:
    """The twins of the keypoints of PAIRS rows, pair after pair.

    reference: the side, source or target, that is searched. n_points: the number of keypoints of each pair.
    Raises ValueError for a pair with keypoints without what is needed to say.
    """
    names = (f"{reference}_all_keypoint_id", f"{reference}_all_xy_px", "mirror_keypoint_ids")
    refuse_without_ids(pairs, names, n_points, "the cases of left and right need")
    n_ids, n_places = (pc.fill_null(pc.list_value_length(pairs[name]), 0).to_numpy() for name in names[:2])
    unequal = (n_ids != n_places) & (n_points > 0)
    refuse(unequal, pairs["pair_id"], f"has another number of {names[0]} than of {names[1]}")
    columns = [pairs[name].to_pylist() for name in ("keypoint_id", *names)]
    case, xy_px = [], []
    for count, ids, all_ids, all_xy_px, mirrored in zip(n_points, *columns, strict=True):
        if count:
            place = dict(zip(all_ids, all_xy_px, strict=True))
            twin = {name: other for pair in mirrored for name, other in (pair, pair[::-1])}
            case += [_case(name, twin, place) for name in ids]
            xy_px += [place.get(twin.get(name), (np.nan, np.nan)) for name in ids]
    return Twins(case=np.array(case, np.int64), xy_px=np.array(xy_px, np.float64).reshape(-1, 2))


def _case(keypoint_id: str, twin: dict[str, str], place: dict[str, list[float]]) -> int:
    if keypoint_id not in twin:
        return _WITHOUT_TWIN
    return _BOTH if twin[keypoint_id] in place else _ALONE
