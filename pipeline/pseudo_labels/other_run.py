"""The answers of a second run over the same manifest, looked up pair by pair."""

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64

from pipeline.pseudo_labels.pair_index import PairIndex, choose_rows
from pipeline.runs.folder import Run
from pipeline.runs.parts import open_part, part_sizes
from schemas.check import conform
from schemas.matches import DIRECTIONS, MATCHES

_COLUMNS = ("query_xy_px", "reference_xy_px")
_SCHEMA = pa.schema([MATCHES.field(name) for name in _COLUMNS], metadata=MATCHES.metadata)
_ROW_GROUPS_HELD = 32


class OtherRun:
    """A second run. Few of its row groups are in memory at once: its parts are best made as those of the first run."""

    def __init__(self, run: Run, index: PairIndex) -> None:
        self._sizes = part_sizes(run.out)
        self._files = list(self._sizes)
        self._chosen = choose_rows(self._sizes, index, run.fingerprint)
        self._starts = lru_cache(maxsize=None)(self._read_starts)
        self._group = lru_cache(maxsize=_ROW_GROUPS_HELD)(self._read_group)

    def answers(self, place: Int64[np.ndarray, " n"], direction: str) -> pa.Table:
        """The points and answers of pairs, by their places in the manifest; null where a pair has none."""
        number = DIRECTIONS.index(direction)
        part, row = self._chosen.part[number, place], self._chosen.row[number, place]
        found, order = [_SCHEMA.empty_table()], []
        for of_part in np.unique(part[part >= 0]):
            starts = self._starts(int(of_part))
            wanted = np.flatnonzero(part == of_part)
            group = np.searchsorted(starts, row[wanted], side="right") - 1
            for of_group in np.unique(group):
                pairs = wanted[group == of_group]
                order.append(pairs)
                rows = self._group(int(of_part), int(of_group))
                found.append(rows.take(pa.array(row[pairs] - starts[of_group])))
        answered = np.concatenate([*order, np.zeros(0, np.int64)])
        at = np.full(len(place), -1)
        at[answered] = np.arange(len(answered))
        return pa.concat_tables(found).take(pa.array(at, mask=at < 0))

    def _read_starts(self, part: int) -> Int64[np.ndarray, " g"]:
        """The first row of each row group of a part."""
        with self._open(part) as parquet:
            lengths = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        return np.cumsum([0, *lengths])[:-1]

    def _read_group(self, part: int, group: int) -> pa.Table:
        with self._open(part) as parquet:
            return conform(parquet.read_row_group(group, columns=list(_COLUMNS)), _SCHEMA, self._files[part])

    def _open(self, part: int) -> pq.ParquetFile:
        return open_part(self._files[part], self._sizes[self._files[part]])
