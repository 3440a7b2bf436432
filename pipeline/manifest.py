"""Reading a PAIRS manifest: one Parquet file, or a folder of them in order of name."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from schemas.check import SchemaError, check_schema, conform
from schemas.pairs import PAIRS

INLINE_COLUMNS = ("source_image", "target_image")
_BATCH_ROWS = 1024


def manifest_files(pairs_uri: str) -> list[str]:
    """The Parquet files of a manifest. Raises FileNotFoundError if there is none, SchemaError if one is no PAIRS."""
    files = [pairs_uri] if pairs_uri.endswith(".parquet") else []
    if not files or not storage.is_file(pairs_uri):
        files = storage.list_files(pairs_uri, ".parquet")
    if not files:
        raise FileNotFoundError(f"no manifest at {pairs_uri}: neither a .parquet file nor a folder that holds one")
    for file in files:
        with open_parquet(file) as parquet:
            check_schema(parquet.schema_arrow, PAIRS, file)
    return files


def open_parquet(uri: str) -> pq.ParquetFile:
    """One Parquet file, opened. Raises FileNotFoundError, or ValueError naming it if it is not Parquet."""
    fs, path = storage.open_uri(uri)
    try:
        return pq.ParquetFile(path, filesystem=fs)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{uri} is not a Parquet file: {error}") from error


def row_group_lengths(file: str) -> list[int]:
    """How many rows each row group of a Parquet file has; raises as open_parquet does."""
    with open_parquet(file) as parquet:
        return [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]


def n_pairs(pairs_uri: str) -> int:
    """How many rows a manifest has; raises as manifest_files does."""
    return sum(sum(row_group_lengths(file)) for file in manifest_files(pairs_uri))


def read_pairs(pairs_uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """PAIRS rows in manifest order; all columns but the inline images unless `columns` names them."""
    names = [name for name in PAIRS.names if name not in INLINE_COLUMNS] if columns is None else list(columns)
    expected = pa.schema([PAIRS.field(name) for name in names], metadata=PAIRS.metadata)
    tables = []
    for file in manifest_files(pairs_uri):
        with open_parquet(file) as parquet:
            present = [name for name in names if name in parquet.schema_arrow.names]
            tables.append(conform(parquet.read(columns=present), expected, file))
    return pa.concat_tables(tables)


def read_ids(pairs_uri: str) -> pa.ChunkedArray:
    """All pair ids of a manifest, in order.

    Raises SchemaError if there is none, or one is null or occurs twice; and as manifest_files does.
    """
    ids = read_pairs(pairs_uri, ["pair_id"])["pair_id"]
    if not len(ids):
        raise SchemaError(f"{pairs_uri}: the manifest has no rows")
    if pc.count_distinct(ids).as_py() < len(ids):
        counts = ids.value_counts()
        repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
        examples = ", ".join(repr(value) for value in repeated[:3].to_pylist())
        raise SchemaError(f"{pairs_uri}: {len(repeated)} pair_id occur more than once, for instance {examples}")
    return ids


def iter_rows(file: str, columns: Sequence[str], batch_rows: int) -> Iterator[tuple[int, int, pa.Table]]:
    """(row group, offset in the row group, rows) over one manifest file, at most `batch_rows` rows in memory."""
    expected = pa.schema([PAIRS.field(name) for name in columns], metadata=PAIRS.metadata)
    with open_parquet(file) as parquet:
        present = [name for name in columns if name in parquet.schema_arrow.names]
        for group in range(parquet.num_row_groups):
            offset = 0
            for batch in parquet.iter_batches(batch_rows, row_groups=[group], columns=present):
                yield group, offset, conform(pa.Table.from_batches([batch]), expected, file)
                offset += batch.num_rows


def read_rows(file: str, row_group: int, rows: np.ndarray) -> pa.Table:
    """The given rows (indices into one row group, any order), all columns, in that order.

    The row group is streamed: memory is that of the rows taken and one batch, however large the row group is.
    """
    order = np.argsort(rows)
    wanted = rows[order]
    taken, offset = [], 0
    with open_parquet(file) as parquet:
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[row_group]):
            first, last = np.searchsorted(wanted, [offset, offset + batch.num_rows])
            taken.append(batch.take(pa.array(wanted[first:last] - offset)))
            offset += batch.num_rows
            if last == len(wanted):
                break
    in_order = np.empty_like(order)
    in_order[order] = np.arange(len(order))
    return conform(pa.Table.from_batches(taken).take(pa.array(in_order)), PAIRS, file)


def manifest_digest(files: Sequence[str]) -> str:
    """A hash of everything the manifest says: the bytes of its files, in order."""
    digest = hashlib.sha256()
    for file in files:
        fs, path = storage.open_uri(file)
        with fs.open(path, "rb") as stream:
            while block := stream.read(2**22):
                digest.update(block)
    return digest.hexdigest()[:16]
