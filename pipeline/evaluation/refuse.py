"""Refusal of pairs that cannot be scored."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int64

STALE = (
    "was matched at other query points than this manifest has: the run is stale, of another manifest or of other "
    "--points; match again into a new folder"
)


def refuse(bad: Bool[np.ndarray, " p"], pair_id: pa.ChunkedArray, why: str) -> None:
    """Raises ValueError with the first bad pair, the number of others and the reason, if any pair is bad."""
    if bad.any():
        first, count = int(np.flatnonzero(bad)[0]), int(np.count_nonzero(bad))
        others = f" (and {count - 1} more pairs)" if count > 1 else ""
        raise ValueError(f"pair {pair_id[first].as_py()}{others} {why}")


def refuse_without_ids(pairs: pa.Table, names: Sequence[str], n_points: Int64[np.ndarray, " p"], who: str) -> None:
    """Raises ValueError for a pair with keypoints that lacks one of the columns, or a keypoint_id of each, or
    that has a null in one of these lists.

    n_points: the number of keypoints of each pair. who: 'what needs' the columns, for the message.
    """
    for name in ("keypoint_id", *names):
        need = f"has no {name}, which {who}; prepare the manifest again, of a data set with it"
        refuse(pc.is_null(pairs[name]).to_numpy() & (n_points > 0), pairs["pair_id"], need)
        has_null = _has_null_inside(pairs[name]) & (n_points > 0)
        refuse(has_null, pairs["pair_id"], f"has a null in the list of its {name}, which {who}; leave it out there")
    n_ids = pc.fill_null(pc.list_value_length(pairs["keypoint_id"]), 0).to_numpy()
    unequal = (n_ids != n_points) & (n_points > 0)
    refuse(unequal, pairs["pair_id"], "has another number of keypoint_id than of keypoints")


def _has_null_inside(column: pa.ChunkedArray) -> Bool[np.ndarray, " p"]:
    """Whether each list of a column has a null value."""
    is_null = pc.is_null(pc.list_flatten(column)).to_numpy()
    return np.bincount(pc.list_parent_indices(column).to_numpy()[is_null], minlength=len(column)) > 0
