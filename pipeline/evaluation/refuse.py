"""Refusal of pairs that cannot be scored."""

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

STALE = (
    "was matched at other query points than this manifest has: the run is stale or of another manifest; "
    "match again into a new folder"
)


def refuse(bad: Bool[np.ndarray, " p"], pair_id: pa.ChunkedArray, why: str) -> None:
    """Raises ValueError with the first bad pair, the number of others and the reason, if any pair is bad."""
    if bad.any():
        first, count = int(np.flatnonzero(bad)[0]), int(np.count_nonzero(bad))
        others = f" (and {count - 1} more pairs)" if count > 1 else ""
        raise ValueError(f"pair {pair_id[first].as_py()}{others} {why}")
