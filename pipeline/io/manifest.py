"""Reading a PAIRS manifest: one Parquet file, or a folder of them in order of name.

A manifest may be damaged, or made to do harm: what is read of it is PAIRS within the limits below, or one error names
the file. Nothing in it is unpickled, and no type that it names is looked up.
"""

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.io import storage
from schemas.check import SchemaError, check_schema, conform
from schemas.failures import Failure
from schemas.pairs import PAIRS

INLINE_COLUMNS = ("source_image", "target_image")
MAX_TEXT_BYTES = 4096
"""Of an id, a URI or another text. A few bytes of Parquet can repeat a text of megabytes in a million rows."""
MAX_KEYPOINTS = 10_000
"""Of a pair; where more is wanted there is dense flow. A few bytes of Parquet can repeat a point ten million times."""
_BATCH_ROWS = 1024


def manifest_files(pairs_uri: str) -> list[str]:
    """The Parquet files of a manifest.

    Raises FileNotFoundError if there is none, SchemaError if one is no PAIRS, or has far more keypoints than allowed.
    """
    files = [pairs_uri] if pairs_uri.endswith(".parquet") else []
    if not files or not storage.is_file(pairs_uri):
        files = storage.list_files(pairs_uri, ".parquet")
    if not files:
        raise FileNotFoundError(f"no manifest at {pairs_uri}: neither a .parquet file nor a folder that holds one")
    for file in files:
        with _about(f"{file} is damaged"), open_parquet(file) as parquet:
            _check_columns(parquet.schema_arrow, file)
            _check_lengths(parquet.metadata, file)
    return files


def open_parquet(uri: str) -> pq.ParquetFile:
    """One Parquet file, opened. Raises FileNotFoundError, or ValueError naming it if it is not Parquet."""
    fs, path = storage.open_uri(uri)
    with _about(f"{uri} is not a Parquet file"):
        return pq.ParquetFile(path, filesystem=fs)


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
        with _open_pairs(file) as parquet:
            present = [name for name in names if name in parquet.schema_arrow.names]
            tables.append(_as_pairs(parquet.read(columns=present), expected, file))
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
    with _open_pairs(file) as parquet:
        present = [name for name in columns if name in parquet.schema_arrow.names]
        for group in range(parquet.num_row_groups):
            offset = 0
            for batch in parquet.iter_batches(batch_rows, row_groups=[group], columns=present):
                yield group, offset, _as_pairs(pa.Table.from_batches([batch]), expected, file)
                offset += batch.num_rows


def read_rows(file: str, row_group: int, rows: np.ndarray) -> pa.Table:
    """The given rows (indices into one row group, any order), all columns, in that order.

    The row group is streamed: memory is that of the rows taken and one batch, however large the row group is.
    """
    order = np.argsort(rows)
    wanted = rows[order]
    taken, offset = [], 0
    with _open_pairs(file) as parquet:
        for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[row_group]):
            first, last = np.searchsorted(wanted, [offset, offset + batch.num_rows])
            if last > first:
                taken.append(batch.take(pa.array(wanted[first:last] - offset)))
            offset += batch.num_rows
            if last == len(wanted):
                break
    if offset <= wanted[-1]:
        raise ValueError(f"{file}: row group {row_group} has {offset} rows, and row {wanted[-1]} was to be read")
    in_order = np.empty_like(order)
    in_order[order] = np.arange(len(order))
    return _as_pairs(pa.Table.from_batches(taken).take(pa.array(in_order)), PAIRS, file)


def drop_oversized_keypoints(rows: pa.Table) -> tuple[pa.Table, dict[str, Failure]]:
    """PAIRS rows without the keypoints of pairs that have more than MAX_KEYPOINTS; the failures of these by pair_id."""
    failures: dict[str, Failure] = {}
    for name in ("source_xy_px", "target_xy_px", "keypoint_id"):
        counts = pc.fill_null(pc.list_value_length(rows[name]), 0)
        too_many = pc.greater(counts, MAX_KEYPOINTS)
        if pc.any(too_many).as_py():
            for pair_id, n in zip(rows["pair_id"].filter(too_many), counts.filter(too_many), strict=True):
                message = f"{name} has {n} points; at most {MAX_KEYPOINTS}"
                failures[pair_id.as_py()] = Failure("manifest", "too_many_keypoints", message)
            kept = pc.if_else(too_many, pa.scalar(None, rows[name].type), rows[name])
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), kept)
    return rows, failures


def manifest_digest(files: Sequence[str]) -> str:
    """A hash of everything the manifest says: the bytes of its files, in order."""
    digest = hashlib.sha256()
    for file in files:
        fs, path = storage.open_uri(file)
        with fs.open(path, "rb") as stream:
            while block := stream.read(2**22):
                digest.update(block)
    return digest.hexdigest()[:16]


@contextmanager
def _open_pairs(file: str) -> Iterator[pq.ParquetFile]:
    """A file of a manifest; texts that it holds once each come so, and their lengths are known before they are many."""
    fs, path = storage.open_uri(file)
    with _about(f"{file} is damaged"):
        with open_parquet(file) as parquet:
            metadata, texts = parquet.metadata, [field.name for field in parquet.schema_arrow if _is_text(field.type)]
        once = [name for name in texts if _is_dictionary(metadata, name)]
        with pq.ParquetFile(path, filesystem=fs, metadata=metadata, read_dictionary=once) as parquet:
            yield parquet


def _as_pairs(rows: pa.Table, expected: pa.Schema, file: str) -> pa.Table:
    """Rows in the schema they should have. Raises SchemaError as conform does, and for texts that are too long."""
    for name, column in zip(rows.column_names, rows.columns, strict=True):
        for chunk in column.chunks:
            texts = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
            longest = pc.max(pc.binary_length(texts)).as_py() or 0 if _is_text(texts.type) else 0
            if longest > MAX_TEXT_BYTES:
                raise SchemaError(f"{file}: column {name} has a text of {longest} bytes; at most {MAX_TEXT_BYTES}")
    return conform(rows, expected, file)


def _check_columns(actual: pa.Schema, file: str) -> None:
    try:
        check_schema(actual, PAIRS, file)
    except SchemaError as error:
        made = f"nemf prepare --dataset table --annotations {shlex.quote(file)} --root IMAGES --out PAIRS.parquet"
        raise SchemaError(f"{error}. If other software wrote it, `{made}` makes a manifest of it") from error


def _check_lengths(metadata: pq.FileMetaData, file: str) -> None:
    """Raises SchemaError for lists of a length, on average, that no row may have: to read them would take all memory.

    A row that is alone with too many keypoints passes, see drop_oversized_keypoints.
    """
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        for number in range(group.num_columns):
            column = group.column(number)
            if column.num_values > 2 * MAX_KEYPOINTS * group.num_rows:
                raise SchemaError(
                    f"{file}: column {column.path_in_schema} has {column.num_values} numbers in the {group.num_rows} "
                    f"rows of row group {index}; at most {MAX_KEYPOINTS} keypoints a row"
                )


def _is_dictionary(metadata: pq.FileMetaData, name: str) -> bool:
    """Whether a column is written as a dictionary, and in no encoding that pyarrow 26 cannot read as one."""
    paths = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    chunks = (metadata.row_group(index).column(paths.index(name)) for index in range(metadata.num_row_groups))
    encodings = {encoding for chunk in chunks for encoding in chunk.encodings}
    return any("DICTIONARY" in encoding for encoding in encodings) and not any("DELTA" in other for other in encodings)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


@contextmanager
def _about(what: str) -> Iterator[None]:
    """What Arrow raises becomes a ValueError that begins with `what`; what a store raises stays as it is."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and (error.errno or type(error) is not OSError):
            raise
        raise ValueError(f"{what}: {' '.join(str(error).split())[:300]}") from error
