"""What is left to do, cut into slices.

A slice names rows of one row group of the manifest; the rows themselves are read where they are matched. The driver
keeps the ids (as Arrow, not as Python objects) and the row numbers, never keypoints or images.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest import iter_rows, manifest_files
from schemas.check import SchemaError

WINDOW_ROWS = 65_536
"""Rows of the manifest looked at together when pairs that share images are brought together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """Rows of one row group of one manifest file, to be matched together."""

    file: str
    row_group: int
    rows: np.ndarray


@dataclass(kw_only=True)
class Plan:
    """The pairs of a manifest: how many, how many are done, and the slices of the others."""

    n_pairs: int = 0
    n_done: int = 0
    slices: list[Slice] = field(default_factory=list)

    @property
    def n_left(self) -> int:
        """Pairs still to be matched."""
        return self.n_pairs - self.n_done


def make_plan(pairs_uri: str, done_ids: pa.Array, *, slice_pairs: int, limit: int | None = None) -> Plan:
    """Plan the first `limit` pairs of a manifest (None: all), without those in `done_ids` (strings).

    slice_pairs: pairs per slice, at most. Within a window pairs are ordered by their images, so that a slice reads
    few of them. Raises SchemaError for a manifest that is no PAIRS table, is empty, or has a pair_id twice or null.
    """
    plan = Plan()
    seen: list[pa.Array] = []
    for window in _windows(pairs_uri, limit):
        ids = window.rows["pair_id"].cast(pa.string())
        if ids.null_count:
            row = window.first_row + int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
            raise SchemaError(
                f"{window.file}: row group {window.row_group}, row {row}: pair_id is null; give each an id"
            )
        seen.append(ids)
        left = pc.invert(pc.is_in(ids, value_set=done_ids))
        rows = pa.array(np.arange(window.first_row, window.first_row + len(ids), dtype=np.int32)).filter(left)
        rows = rows.take(_by_images(window.rows.filter(left))).to_numpy()
        plan.n_pairs += len(ids)
        plan.n_done += len(ids) - len(rows)
        plan.slices += [
            Slice(file=window.file, row_group=window.row_group, rows=rows[start : start + slice_pairs])
            for start in range(0, len(rows), slice_pairs)
        ]
    _refuse_repeated_ids(pa.chunked_array(seen, pa.string()), pairs_uri)
    if not plan.n_pairs:
        raise SchemaError(f"{pairs_uri}: the manifest has no rows")
    return plan


@dataclass(frozen=True, kw_only=True, eq=False)
class _Window:
    file: str
    row_group: int
    first_row: int
    rows: pa.RecordBatch


def _windows(pairs_uri: str, limit: int | None) -> Iterator[_Window]:
    left = limit
    for file in manifest_files(pairs_uri):
        for group, first_row, rows in iter_rows(file, ["pair_id", "source_uri", "target_uri"], WINDOW_ROWS):
            if left is not None:
                rows = rows.slice(0, left)
                left -= rows.num_rows
            if rows.num_rows:
                yield _Window(file=file, row_group=group, first_row=first_row, rows=rows)
            if left == 0:
                return


def _by_images(rows: pa.RecordBatch) -> pa.Array:
    """Indices that order rows by source image, then target image; stable, so inline images keep their order."""
    keys = [name for name in ("source_uri", "target_uri") if name in rows.schema.names]
    if not keys:
        return pa.array(np.arange(rows.num_rows))
    return pc.sort_indices(rows.select(keys), sort_keys=[(name, "ascending") for name in keys])


def _refuse_repeated_ids(ids: pa.ChunkedArray, pairs_uri: str) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = ids.value_counts()
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    examples = ", ".join(repr(value) for value in repeated.field("values")[:3].to_pylist())
    raise SchemaError(f"{pairs_uri}: {len(repeated)} pair_id occur more than once, for instance {examples}")
