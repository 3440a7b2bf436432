"""Which pairs of a manifest are to be scored: those that the run which matched them was asked for."""

import pyarrow as pa

from pipeline.io.manifest import n_pairs, read_pairs
from pipeline.runs.folder import read_run


def planned_limit(matches_uri: str) -> int | None:
    """How many pairs, the first of the manifest, the matches are of: the limit of their run; None for all.

    matches_uri: a run folder, or anything else that holds MATCHES, which is taken to be of all pairs.
    """
    try:
        run = read_run(matches_uri)
    except FileNotFoundError:
        return None
    return run.limit()


def planned_pairs(pairs_uri: str, matches_uri: str) -> pa.Table:
    """The PAIRS rows, without inline images, of the first planned_limit pairs of the manifest."""
    return read_pairs(pairs_uri).slice(0, planned_limit(matches_uri))


def planned_count(pairs_uri: str, matches_uri: str) -> int:
    """How many rows planned_pairs has; opens no row group."""
    count, limit = n_pairs(pairs_uri), planned_limit(matches_uri)
    return count if limit is None else min(count, limit)
