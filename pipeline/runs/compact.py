"""Many small parts become few large ones: the same table, sorted by pair_id and direction, without superseded rows.

New parts are written beside the old ones, which are deleted when all new ones are there. Both hold the same rows of the
same attempts, and readers take one row per pair and direction, so at no moment is a pair there twice or not at all;
killed anywhere, compaction is run again from the start.

Of all rows only the keys are in memory at once. The rest goes through files in the temporary folder (TMPDIR), one for
each new part, which take about as much room as the run.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.io import storage
from pipeline.runs.counts import rows_digest
from pipeline.runs.folder import Run
from pipeline.runs.parts import KEY_COLUMNS, THREADS, Part, chosen_rows, open_part, part_sizes, read_parts
from schemas.check import conform
from schemas.matches import MATCHES

ROW_GROUP_BYTES = 2**23
ROW_GROUP_ROWS = 4096
"""A row group has at most so many bytes and rows: what it costs to look up one pair."""
_SORTED_BY = ("pair_id", "direction")
_BATCH_BYTES = 2**25


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """Where every row of the present parts is to go."""

    sizes: dict[str, int]
    """The parts, as pipeline.runs.parts.part_sizes lists them."""
    bucket: np.ndarray
    """int32, for every row of every part in turn: the number of its new part, -1 if it is superseded."""
    is_needed: bool
    """Whether there are superseded or unsorted rows, or twice as many parts as need be."""

    @property
    def n_buckets(self) -> int:
        """How many parts there will be."""
        return int(self.bucket.max(initial=-1)) + 1

    @property
    def n_superseded(self) -> int:
        """Rows that a later answer made superfluous."""
        return int((self.bucket < 0).sum())

    @property
    def row_bytes(self) -> float:
        """Bytes of a row, on average."""
        return sum(self.sizes.values()) / max(1, len(self.bucket))


def plan_compaction(run: Run, target_bytes: int) -> Compaction:
    """How to have parts of about `target_bytes`. Reads the key columns of all parts.

    Raises ValueError if a part holds rows of another run.
    """
    sizes = part_sizes(run.out)
    tables = list(read_parts(sizes, [*KEY_COLUMNS, "fingerprint"]))
    for file, table in zip(sizes, tables, strict=True):
        if not pc.all(pc.equal(table["fingerprint"], run.fingerprint), min_count=0).as_py():
            raise ValueError(f"{file} holds rows of another run than {run.out}; move it away, then compact")
    keys = pa.concat_tables([MATCHES.empty_table().select([*KEY_COLUMNS, "fingerprint"]), *tables])
    lengths = [table.num_rows for table in tables]
    rank = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    chosen = chosen_rows(keys, pa.chunked_array([rank])).to_numpy()
    row_bytes = np.repeat([size / max(1, n) for size, n in zip(sizes.values(), lengths, strict=True)], lengths)
    before = np.cumsum(row_bytes[chosen]) - row_bytes[chosen]
    bucket = np.full(len(rank), -1, np.int32)
    bucket[chosen] = np.unique(before // target_bytes, return_inverse=True)[1]
    place = np.full(len(rank), -1)
    place[chosen] = np.arange(len(chosen))
    within = rank[1:] == rank[:-1]
    is_sorted = len(chosen) == len(rank) and bool((np.diff(place)[within] == 1).all())
    is_few = len(sizes) < 2 or len(sizes) < 2 * (int(bucket.max()) + 1)
    return Compaction(sizes=sizes, bucket=bucket, is_needed=not (is_sorted and is_few))


def compact(run: Run, plan: Compaction) -> list[Part]:
    """Replace the parts by those of the plan; the caller holds the run folder."""
    with tempfile.TemporaryDirectory(prefix="nemf-compact-") as folder:
        _deal(plan, Path(folder))
        new = [_write(run, Path(folder, str(number)), plan) for number in range(plan.n_buckets)]
    _delete_old(run.out, plan, {part.name for part in new})
    return new


def _deal(plan: Compaction, folder: Path) -> None:
    """Append every row that stays to the file of its new part, as Arrow streams one after the other."""
    start = 0
    for file, n_bytes in plan.sizes.items():
        for batch in _batches(file, n_bytes, plan.row_bytes):
            bucket = plan.bucket[start : start + batch.num_rows]
            start += batch.num_rows
            for number in np.unique(bucket[bucket >= 0]):
                rows = batch.filter(pa.array(bucket == number))
                with (folder / str(number)).open("ab") as sink, pa.ipc.new_stream(sink, MATCHES) as writer:
                    writer.write_table(rows)
    assert start == len(plan.bucket), "the parts are not those of the plan"


def _batches(file: str, n_bytes: int, row_bytes: float) -> Iterator[pa.Table]:
    """The rows of a part, some of them at a time."""
    with open_part(file, n_bytes) as parquet:
        for batch in parquet.iter_batches(max(1, int(_BATCH_BYTES / max(1, row_bytes)))):
            yield conform(pa.Table.from_batches([batch]), MATCHES, file)


def _write(run: Run, dealt: Path, plan: Compaction) -> Part:
    """One new part from the rows dealt to it, whose file is deleted."""
    rows = pa.concat_tables(_streams(dealt))
    rows = rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in _SORTED_BY]))
    dealt.unlink()
    metadata = {b"fingerprint": run.fingerprint.encode(), b"run_id": run.run_id.encode()}
    schema = MATCHES.with_metadata({**MATCHES.metadata, **metadata})
    key = hashlib.sha256(f"sorted\0{run.fingerprint}\0{rows_digest(rows)}".encode()).hexdigest()[:20]
    name = f"part-{key}.parquet"
    group_rows = max(1, min(ROW_GROUP_ROWS, int(ROW_GROUP_BYTES / max(1, plan.row_bytes))))
    order = [pq.SortingColumn(MATCHES.get_field_index(name)) for name in _SORTED_BY]
    with storage.atomic_writer(storage.join(run.out, "parts", name)) as file:
        with pq.ParquetWriter(file, schema, compression="zstd", sorting_columns=order) as writer:
            writer.write_table(rows.replace_schema_metadata(schema.metadata), row_group_size=group_rows)
        return Part(name=name, n_bytes=file.stat().st_size)


def _streams(file: Path) -> Iterator[pa.Table]:
    with file.open("rb") as source:
        while source.peek(1):
            yield pa.ipc.open_stream(source).read_all()


def _delete_old(out: str, plan: Compaction, new_names: set[str]) -> None:
    new = {storage.join(out, "parts", name) for name in new_names}
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(storage.delete_file, [file for file in plan.sizes if file not in new]))
