"""The pairs still to be matched, cut into slices.

A slice is a list of rows of one row group of the manifest; workers read the rows themselves. The driver keeps the ids,
as Arrow, and the row numbers, never keypoints or images.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.io.manifest import Manifest

WINDOW_ROWS = 65_536
"""Rows of the manifest that are ordered together, so that pairs that share images come into the same slice."""

_SPREAD = (
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
)
"""(shift, mask) of each step that spreads the bits of a number: a zero before each of them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Slice:
    """Rows of one row group of one manifest file, to be matched together."""

    file: str
    row_group: int
    rows: np.ndarray
    """Indices into the row group, int32."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The requested pairs: how many, how many of them are done, and the slices of the others."""

    n_pairs: int
    n_done: int
    slices: list[Slice]

    @property
    def n_left(self) -> int:
        """Pairs still to be matched."""
        return self.n_pairs - self.n_done


def make_plan(manifest: Manifest, ids: pa.ChunkedArray, done_ids: pa.ChunkedArray, *, slice_pairs: int) -> Plan:
    """Plan the pairs `ids`, the first of a manifest, without those in `done_ids`.

    slice_pairs: pairs per slice, at most. Within a window pairs are ordered by their images, so that a slice shows few
    different images.
    """
    left = ~pc.is_in(ids, value_set=done_ids).to_numpy()
    slices: list[Slice] = []
    position = 0
    for file, row_group, first_row, window in manifest.windows(["source_uri", "target_uri"], WINDOW_ROWS):
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
    """Indices that order rows so that those near each other share many of their images, on either side.

    The images of each side are numbered in order of URI, and the pairs of numbers follow a Z-order curve (Morton 1966),
    any stretch of which lies in few columns and few rows. Stable, so inline images keep their order.
    """
    source, target = (_numbers(rows[name]) for name in ("source_uri", "target_uri"))
    return np.argsort(_spread(source) << np.uint64(1) | _spread(target), kind="stable")


def _numbers(uris: pa.ChunkedArray) -> np.ndarray:
    """The rank of each URI among the distinct ones in order, uint64 from 0; that of null is the last."""
    return pc.rank(uris, "ascending", tiebreaker="dense").to_numpy().astype(np.uint64) - np.uint64(1)


def _spread(numbers: np.ndarray) -> np.ndarray:
    """uint64 numbers below 2^32 with a zero before each of their bits."""
    for shift, mask in _SPREAD:
        numbers = (numbers | numbers << np.uint64(shift)) & np.uint64(mask)
    return numbers
