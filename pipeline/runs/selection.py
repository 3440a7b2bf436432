"""Which pairs of its manifest a run was asked for."""

from typing import Any

import pyarrow as pa

from pipeline.io.manifest import n_pairs, read_pairs
from pipeline.runs.folder import read_success
from pipeline.runs.lease import read_attempts
from schemas.matches import directions_of


def requested_limit(out: str, recorded: dict[str, Any]) -> int | None:
    """How many pairs of its manifest a run was asked for, by whichever attempt asked for most; None for all.

    recorded: what run.json says, whose limit is that of the first attempt.
    """
    if success := read_success(out):
        return success["limit"]
    limit = recorded["config"]["limit"]
    n_directions = len(directions_of(recorded["config"]["direction"]))
    rows = [attempt.rows for attempt in read_attempts(out) if attempt.rows]
    return limit and max([limit, *(n // n_directions for n in rows)])


def planned_pairs(pairs_uri: str, matches_uri: str) -> pa.Table:
    """The pairs of a manifest that a run was to match: the first `--limit` if it finished with one, else all."""
    limit = (read_success(matches_uri) or {}).get("limit")
    return read_pairs(pairs_uri).slice(0, limit)


def planned_count(pairs_uri: str, matches_uri: str) -> int:
    """How many pairs planned_pairs has."""
    count = n_pairs(pairs_uri)
    return min(count, (read_success(matches_uri) or {}).get("limit") or count)
