"""The parts of a run folder: how MATCHES rows are committed, and how they are read.

    <out>/parts/part-<key>.parquet    MATCHES rows; a part that exists is committed, whole and never changed

The key is a hash of the fingerprint, the attempt and the rows' pairs, so a part written twice (a worker killed after
its commit) is one part. Two attempts may both answer a pair; readers take one row per pair and direction: ok beats
error, then the later attempt, then the lower part name.

Parts are read in threads, in order of name. On object storage a small part is one GET; of a large one the footer and
the columns that are needed.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nemf.io.uri import with_retries
from pipeline.io import storage
from pipeline.io.prefetch import prefetch
from pipeline.io.row_count import check_row_count
from schemas.check import check_schema, conform
from schemas.matches import MATCHES

KEY_COLUMNS = ("pair_id", "direction", "status", "attempt")
"""The columns that, with the name of its part, decide which of several rows of a pair readers take."""
WHOLE_BYTES = 2**20
"""A part up to this size is read in one piece, whatever columns are read: the footer alone takes a request."""
THREADS = 16
"""Parts read at once; most of the time is spent waiting for the store."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A committed part."""

    name: str
    n_bytes: int


def write_part(out: str, rows: pa.Table, *, run_id: str = "") -> Part:
    """Commit MATCHES rows of one fingerprint and attempt to `<out>/parts`.

    Raises SchemaError if the rows are not MATCHES. Writing the same pairs again changes nothing.
    """
    rows = conform(rows, MATCHES, "rows to commit")
    fingerprints, attempts = pc.unique(rows["fingerprint"]), pc.unique(rows["attempt"])
    assert len(fingerprints) == len(attempts) == 1, "a part holds one fingerprint and one attempt"
    fingerprint, attempt = fingerprints[0].as_py(), attempts[0].as_py()
    ids = sorted(f"{p}\0{d}" for p, d in zip(rows["pair_id"].to_pylist(), rows["direction"].to_pylist(), strict=True))
    key = hashlib.sha256("\0\0".join([fingerprint, str(attempt), *ids]).encode()).hexdigest()[:20]
    name = f"part-{key}.parquet"
    buffer = io.BytesIO()
    metadata = {b"fingerprint": fingerprint.encode(), b"run_id": run_id.encode()}
    table = rows.replace_schema_metadata({**MATCHES.metadata, **metadata})
    pq.write_table(table, buffer, compression="zstd")
    storage.write_if_absent(storage.join(out, "parts", name), buffer.getvalue())
    return Part(name=name, n_bytes=buffer.tell())


def list_parts(out: str) -> list[str]:
    """URIs of the committed parts of a run folder, by name; `out` may also be a single MATCHES file."""
    return list(part_sizes(out))


def part_sizes(out: str) -> dict[str, int]:
    """URIs and bytes of what list_parts lists, from one listing."""
    if out.endswith(".parquet") and storage.is_file(out):
        fs, path = storage.open_uri(out)
        return {out: fs.size(path)}
    folder = storage.join(out, "parts")
    try:
        entries = with_retries(folder, lambda fs, path: fs.ls(path, detail=True))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    sizes = {PurePosixPath(entry["name"]).name: entry["size"] for entry in entries if entry["type"] != "directory"}
    names = sorted(name for name in sizes if name.endswith(".parquet") and not name.startswith("."))
    return {storage.join(folder, name): sizes[name] for name in names}


def read_parts(sizes: Mapping[str, int], columns: Sequence[str]) -> Iterator[pa.Table]:
    """The MATCHES rows of each part, in order; few parts are in memory at once.

    Raises SchemaError for a part that is not MATCHES, ValueError for one that is not Parquet, or is damaged, naming it.
    """
    files = list(sizes)
    expected = pa.schema([MATCHES.field(name) for name in columns], metadata=MATCHES.metadata)
    checked: list[pa.Schema] = []

    def read(rank: int) -> pa.Table:
        file = files[rank]
        with open_part(file, sizes[file]) as parquet:
            schema = parquet.schema_arrow
            if schema not in checked:  # checking takes as long as reading, and parts are alike
                check_schema(schema, MATCHES, file)
                checked.append(schema)
            present = [name for name in columns if name in schema.names]
            rows = parquet.read(columns=present, use_threads=False)
            check_row_count(rows.num_rows, parquet.metadata.num_rows, file)
            return conform(rows, expected, file)

    return prefetch(read, range(len(files)), THREADS)


def open_part(uri: str, n_bytes: int) -> pq.ParquetFile:
    """One part of known size, opened. Raises FileNotFoundError, or ValueError naming it if it is not Parquet."""
    if n_bytes <= WHOLE_BYTES:
        source = pa.BufferReader(storage.read_bytes(uri))
    else:
        fs, path = storage.open_uri(uri)
        # fsspec's default cache would read megabytes ahead of every column
        source = pa.PythonFile(fs.open(path, "rb", size=n_bytes, cache_type="none"), "r")
    try:
        return pq.ParquetFile(source)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{uri} is not a Parquet file: {error}") from error


def read_matches(out: str, columns: Sequence[str] | None = None) -> pa.Table:
    """MATCHES rows of a run folder, one per pair and direction, ordered by pair_id and direction.

    columns: their names; default: all. Raises FileNotFoundError if nothing is committed at `out`.
    """
    names = list(columns) if columns is not None else MATCHES.names
    with_keys = list(dict.fromkeys([*names, *KEY_COLUMNS]))
    while True:
        sizes = part_sizes(out)
        if not sizes:
            raise FileNotFoundError(
                f"no matches at {out}: expected a run folder with parts/*.parquet, or one MATCHES file"
            )
        try:
            tables = list(read_parts(sizes, with_keys))
        except FileNotFoundError:
            if sizes.keys() <= part_sizes(out).keys():
                raise
            continue
        # a part that is gone was compacted after it was listed: its rows are in other parts now
        if sizes.keys() <= part_sizes(out).keys():
            break
    rows = pa.concat_tables(tables)
    ranks = [pa.array([rank] * table.num_rows, pa.int32()) for rank, table in enumerate(tables)]
    return rows.take(chosen_rows(rows, pa.chunked_array(ranks))).select(names)


def reasons_of(rows: pa.Table) -> pa.ChunkedArray:
    """For each MATCHES row 'ok', or the 'stage: kind' of its error."""
    reason = pc.binary_join_element_wise(rows["error_stage"], rows["error_kind"], ": ")
    return pc.if_else(pc.equal(rows["status"], "ok"), "ok", reason)


def count_reasons(rows: pa.Table) -> dict[str, int]:
    """The number of MATCHES rows by reason, in order of its name."""
    return count_each(reasons_of(rows))


def count_each(reasons: pa.ChunkedArray) -> dict[str, int]:
    """The number of occurrences of each reason, in order of its name."""
    return dict(sorted((entry["values"], entry["counts"]) for entry in reasons.value_counts().to_pylist()))


def chosen_rows(rows: pa.Table, part_rank: pa.ChunkedArray) -> pa.Array:
    """Indices of the row to take for every pair and direction, ordered by these two: the rule of all readers.

    rows: with KEY_COLUMNS. part_rank: for each row the index of its part among all parts in order of name.
    Ok comes before error, then the later attempt, then the lower rank.
    """
    keys = pa.table(
        {
            "pair_id": rows["pair_id"],
            "direction": rows["direction"],
            "failed": pc.not_equal(rows["status"], "ok"),
            "attempt": rows["attempt"],
            "part": part_rank,
        }
    )
    order = pc.sort_indices(
        keys,
        sort_keys=[
            ("pair_id", "ascending"),
            ("direction", "ascending"),
            ("failed", "ascending"),
            ("attempt", "descending"),
            ("part", "ascending"),
        ],
    )
    if len(order) < 2:
        return order
    pair_id, direction = keys["pair_id"].take(order), keys["direction"].take(order)
    is_first = pc.or_(
        pc.not_equal(pair_id.slice(1), pair_id.slice(0, len(order) - 1)),
        pc.not_equal(direction.slice(1), direction.slice(0, len(order) - 1)),
    )
    return order.filter(pa.chunked_array([pa.array([True]), *is_first.chunks]).combine_chunks())
