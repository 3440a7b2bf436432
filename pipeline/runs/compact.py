"""Compaction: many small parts become few large ones, sorted by pair_id and direction, without superseded rows.

All new parts are written before an old one is deleted. Both hold the same rows of the same attempts, and readers take
one row per pair and direction, so a reader gets the same table at every moment; killed anywhere, compaction is run
again from the start.

Only the keys of all rows are in memory at once. The rows go through files in the temporary folder (TMPDIR), one for
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
"""Maximum bytes and rows of a row group, which is read as a whole to look up one pair."""
_SORTED_BY = ("pair_id", "direction")
_BATCH_BYTES = 2**25


@dataclass(frozen=True, kw_only=True)
class Compaction:
    """The new part of every row of the present parts."""

    sizes: dict[str, int]
    """The parts, as pipeline.runs.parts.part_sizes lists them."""
    bucket: np.ndarray
    """(N,) int32 over the rows of all parts in turn: the number of the new part, -1 for a superseded row."""
    is_needed: bool
    """Whether there are superseded or unsorted rows, or at least twice as many parts as necessary."""

    @property
    def n_buckets(self) -> int:
        """The number of new parts."""
        return int(self.bucket.max(initial=-1)) + 1

    @property
    def n_superseded(self) -> int:
        """The number of rows that a later row of the same pair and direction replaces."""
        return int((self.bucket < 0).sum())

    @property
    def row_bytes(self) -> float:
        """Mean bytes of a row."""
        return sum(self.sizes.values()) / max(1, len(self.bucket))


def plan_compaction(run: Run, target_bytes: int) -> Compaction:
    """The compaction of a run into parts of about `target_bytes`. Reads the key columns of all parts.

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
    first_byte = np.cumsum(row_bytes[chosen]) - row_bytes[chosen]
    bucket = np.full(len(rank), -1, np.int32)
    bucket[chosen] = np.unique(first_byte // target_bytes, return_inverse=True)[1]
    position = np.full(len(rank), -1)
    position[chosen] = np.arange(len(chosen))
    in_same_part = rank[1:] == rank[:-1]
    is_sorted = len(chosen) == len(rank) and bool((np.diff(position)[in_same_part] == 1).all())
    is_few = len(sizes) < 2 or len(sizes) < 2 * (int(bucket.max()) + 1)
    return Compaction(sizes=sizes, bucket=bucket, is_needed=not (is_sorted and is_few))


def compact(run: Run, plan: Compaction) -> list[Part]:
    """Replace the parts by those of the plan, which are returned. The caller holds the lease of the run folder."""
    with tempfile.TemporaryDirectory(prefix="nemf-compact-") as folder:
        _distribute(plan, Path(folder))
        new = [_write(run, Path(folder, str(number)), plan) for number in range(plan.n_buckets)]
    _delete_old(run.out, plan, {part.name for part in new})
    return new


def _distribute(plan: Compaction, folder: Path) -> None:
    """Append every row that is not superseded to `<folder>/<number of its new part>`, as successive Arrow streams."""
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
    """The rows of a part, in batches of about _BATCH_BYTES."""
    with open_part(file, n_bytes) as parquet:
        for batch in parquet.iter_batches(max(1, int(_BATCH_BYTES / max(1, row_bytes)))):
            yield conform(pa.Table.from_batches([batch]), MATCHES, file)


def _write(run: Run, streams: Path, plan: Compaction) -> Part:
    """Write one new part from the file that _distribute made for it, and delete that file."""
    rows = pa.concat_tables(_read_streams(streams))
    rows = rows.take(pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in _SORTED_BY]))
    streams.unlink()
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


def _read_streams(file: Path) -> Iterator[pa.Table]:
    with file.open("rb") as source:
        while source.peek(1):
            yield pa.ipc.open_stream(source).read_all()


def _delete_old(out: str, plan: Compaction, new_names: set[str]) -> None:
    new = {storage.join(out, "parts", name) for name in new_names}
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(storage.delete_file, [file for file in plan.sizes if file not in new]))
