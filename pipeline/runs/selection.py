"""Which pairs of a manifest are to be scored: those that the run which matched them was asked for."""

import pyarrow as pa

from pipeline.io.manifest import Manifest, read_pairs
from pipeline.runs.folder import read_run


def planned_limit(pairs_uri: str, matches_uri: str) -> int | None:
    """How many pairs, the first of the manifest, the matches are of: the limit of their run; None for all.

    matches_uri: a run folder, or anything else that holds MATCHES, which is taken to be of all pairs.
    Raises ValueError if the run has a limit and was made from another manifest, whose first pairs are others.
    """
    try:
        run = read_run(matches_uri)
    except FileNotFoundError:
        return None
    limit = run.limit()
    if limit is None:
        return None
    with Manifest(pairs_uri) as manifest:
        if manifest.digest() != run.manifest_digest:
            raise ValueError(
                f"{matches_uri} is of the first {limit} pairs of its manifest, and {pairs_uri} is not that manifest: "
                f"give {run.config['pairs']}, or match without --limit"
            )
    return limit


def planned_pairs(pairs_uri: str, matches_uri: str) -> pa.Table:
    """The PAIRS rows, without inline images, of the first planned_limit pairs of the manifest."""
    return read_pairs(pairs_uri).slice(0, planned_limit(pairs_uri, matches_uri))


def planned_count(pairs_uri: str, matches_uri: str) -> int:
    """How many rows planned_pairs has, without reading them."""
    limit = planned_limit(pairs_uri, matches_uri)
    with Manifest(pairs_uri) as manifest:
        count = manifest.n_pairs
    return count if limit is None else min(count, limit)
