"""What is left to do, cut into slices.

A slice names rows of one row group of the manifest; the rows themselves are read where they are matched. The driver
keeps the ids (as Arrow, not as Python objects) and the row numbers, never keypoints or images.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.manifest import iter_rows, manifest_files

WINDOW_ROWS = 65_536
"""Rows of the manifest looked at together when pairs that share images are brought together."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """Rows of one row group of one manifest file, to be matched together."""

    file: str
    row_group: int
    rows: np.ndarray
    """int32, indices into the row group."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The pairs that are asked for: how many, how many are done, and the slices of the others."""

    n_pairs: int
    n_done: int
    slices: list[Slice]

    @property
    def n_left(self) -> int:
        """Pairs still to be matched."""
        return self.n_pairs - self.n_done


def make_plan(pairs_uri: str, ids: pa.ChunkedArray, done_ids: pa.ChunkedArray, *, slice_pairs: int) -> Plan:
    """Plan the pairs `ids`, the first of a manifest, without those in `done_ids`.

    slice_pairs: pairs per slice, at most. Within a window pairs are ordered by their images, so that a slice reads
    few of them.
    """
    left = ~pc.is_in(ids, value_set=done_ids).to_numpy()
    slices: list[Slice] = []
    position = 0
    for file in manifest_files(pairs_uri):
        for row_group, first_row, window in iter_rows(file, ["source_uri", "target_uri"], WINDOW_ROWS):
            rows = np.flatnonzero(left[position : position + window.num_rows])
            position += window.num_rows
            rows = (rows[_by_images(window.take(pa.array(rows)))] + first_row).astype(np.int32)
            slices += [
                Slice(file=file, row_group=row_group, rows=rows[start : start + slice_pairs])
                for start in range(0, len(rows), slice_pairs)
            ]
            if position >= len(left):
                return Plan(n_pairs=len(ids), n_done=len(ids) - int(left.sum()), slices=slices)
    raise AssertionError("the manifest has fewer rows than ids")


def _by_images(rows: pa.Table) -> np.ndarray:
    """Indices that order rows by source image, then target image; stable, so inline images keep their order."""
    keys = [(name, "ascending") for name in ("source_uri", "target_uri")]
    return pc.sort_indices(rows, sort_keys=keys).to_numpy()
