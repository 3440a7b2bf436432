"""Reading a PAIRS manifest: one Parquet file, or a folder of them in order of name.

Other software may have written it, pandas for instance: what it holds is converted where no value changes (see
schemas.check). It may be damaged, or made to do harm: what is read of it is PAIRS within the limits below, or one error
names the file. Nothing in it is unpickled, and no type that it names is looked up.
"""

import hashlib
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from pipeline.io import storage
from pipeline.io.row_count import check_row_count
from schemas.check import OtherTableError, SchemaError, check_schema, conform, has_exact_type
from schemas.failures import Failure
from schemas.pairs import PAIRS

INLINE_COLUMNS = ("source_image", "target_image")
MAX_TEXT_BYTES = 4096
"""Maximum length of an id, a URI or another text: a few bytes of Parquet can repeat megabytes of text in every row."""
MAX_KEYPOINTS = 10_000
"""Maximum number of keypoints of a pair; a few bytes of Parquet can repeat a point ten million times. For more points
use dense flow."""
MAX_OPEN_FILES = 16
"""Maximum number of files of one manifest that stay open; a remote one takes 16 MB of memory."""
MAX_READ_BYTES = 2**26
"""Approximate maximum of bytes of inline images, and of bytes of other columns, that are read at once."""
_POINT_COLUMNS = ("source_xy_px", "target_xy_px", "source_all_xy_px", "target_all_xy_px", "target_valid_xy_px")
_KEYPOINT_COLUMNS = (
    *_POINT_COLUMNS,
    *(
        "keypoint_id",
        "keypoint_probability",
        "source_all_keypoint_id",
        "target_all_keypoint_id",
        "source_visibility",
        "target_visibility",
    ),
    *("mirror_keypoint_ids", "geometry_groups"),
)
_BATCH_ROWS = 1024
_READ_AHEAD_BYTES = 2**23
"""Bytes read at once in a pass over a remote file: a column's data in several row groups."""


class Window(NamedTuple):
    """Consecutive rows of a row group of a manifest."""

    file: str
    row_group: int
    first_row: int
    """Index of the first row in its row group."""
    rows: pa.Table


class Manifest:
    """A PAIRS manifest, its files listed, opened and checked once.

    Use it as a context manager. The files stay open until it ends; of a manifest with more than MAX_OPEN_FILES files
    only the footers are kept, and each pass over the rows opens the files again.

    Raises FileNotFoundError if there is no file, SchemaError if one is no PAIRS or has far more keypoints than allowed,
    and ValueError if one is not Parquet or is damaged, here and in all methods. Of files that do not say that they are
    PAIRS, the values of all columns whose type does not tell that they fit are read and checked here.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        uris = _list_files(uri)
        self._files = [
            _File(file, keep_open=len(uris) <= MAX_OPEN_FILES, read_ahead=_READ_AHEAD_BYTES) for file in uris
        ]
        for file in self._files:
            file.check()

    def __enter__(self) -> "Manifest":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; a later pass opens them again."""
        for file in self._files:
            file.close()

    @property
    def row_groups(self) -> list[tuple[str, int, int]]:
        """(file, index in the file, number of rows) of each row group, in order."""
        return [
            (file.uri, group, file.metadata.row_group(group).num_rows)
            for file in self._files
            for group in range(file.metadata.num_row_groups)
        ]

    @property
    def n_pairs(self) -> int:
        """The number of rows."""
        return sum(n_rows for _, _, n_rows in self.row_groups)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """These columns of all rows, in order; None for all but the inline images. Absent ones are null."""
        columns = [name for name in PAIRS.names if name not in INLINE_COLUMNS] if columns is None else columns
        expected = _schema(columns)
        tables = []
        for file in self._files:
            with file.parquet() as parquet:
                tables.append(_as_pairs(parquet.read(columns=_present(columns, parquet)), expected, file.uri))
            check_row_count(tables[-1].num_rows, file.metadata.num_rows, file.uri)
        return pa.concat_tables(tables)

    def ids(self) -> pa.ChunkedArray:
        """All pair ids, in order. Raises SchemaError if there is none, or one is null or occurs twice."""
        ids = self.read(["pair_id"])["pair_id"]
        if not len(ids):
            raise SchemaError(f"{self.uri}: the manifest has no rows")
        if pc.count_distinct(ids).as_py() < len(ids):
            counts = ids.value_counts()
            repeated = counts.filter(pc.greater(counts.field("counts"), 1)).field("values")
            examples = ", ".join(repr(value) for value in repeated[:3].to_pylist())
            raise SchemaError(f"{self.uri}: {len(repeated)} pair_id occur more than once, for instance {examples}")
        return ids

    def windows(self, columns: Sequence[str], n_rows: int) -> Iterator[Window]:
        """These columns of all rows, in order, at most `n_rows` of one row group at a time, fewer if they are large."""
        expected = _schema(columns)
        for file in self._files:
            with file.parquet() as parquet:
                present = _present(columns, parquet)
                for group in range(parquet.num_row_groups):
                    first_row = 0
                    n_read = min(n_rows, rows_at_once(parquet.metadata.row_group(group), present))
                    for batch in parquet.iter_batches(n_read, row_groups=[group], columns=present):
                        rows = _as_pairs(pa.Table.from_batches([batch]), expected, file.uri)
                        yield Window(file.uri, group, first_row, rows)
                        first_row += batch.num_rows
                    check_row_count(
                        first_row, parquet.metadata.row_group(group).num_rows, f"row group {group} of {file.uri}"
                    )

    def digest(self) -> str:
        """A hash of the content: of the bytes of the files, in order."""
        digest = hashlib.sha256()
        for file in self._files:
            with file.source() as source:
                source.seek(0)
                while block := source.read(_READ_AHEAD_BYTES):
                    digest.update(block)
        return digest.hexdigest()[:16]


def _list_files(uri: str) -> list[str]:
    """URIs of the Parquet files of a manifest, in order. Raises FileNotFoundError if there is none."""
    files = [uri] if uri.endswith(".parquet") else []
    if not files or not storage.is_file(uri):
        files = storage.list_files(uri, ".parquet")
    if not files:
        hint = (
            "; make a manifest of a table with nemf prepare --dataset table"
            if uri.endswith((".csv", ".csv.gz"))
            else ""
        )
        raise FileNotFoundError(f"no manifest at {uri}: neither a .parquet file nor a folder that holds one{hint}")
    return files


def read_pairs(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a manifest, as Manifest.read gives them."""
    with Manifest(uri) as manifest:
        return manifest.read(columns)


def read_rows(file: str, row_group: int, rows: np.ndarray) -> Iterator[pa.Table]:
    """The given rows (indices into one row group, any order), all columns: one table of them in that order.

    Where they have more than MAX_READ_BYTES, several tables, each in that order. The row group is streamed up to the
    last of the rows: memory is that of one table and one batch, however large the row group is.
    """
    order = np.argsort(rows)
    ascending = rows[order]
    taken: list[pa.RecordBatch] = []
    offset = n_bytes = n_yielded = last = 0
    with _File(file, keep_open=False, read_ahead=0).parquet([row_group]) as parquet:
        n_read = min(_BATCH_ROWS, rows_at_once(parquet.metadata.row_group(row_group), parquet.schema_arrow.names))
        for batch in parquet.iter_batches(n_read, row_groups=[row_group]):
            first, last = np.searchsorted(ascending, [offset, offset + batch.num_rows])
            if last > first:
                taken.append(batch.take(pa.array(ascending[first:last] - offset)))
                n_bytes += taken[-1].nbytes
            offset += batch.num_rows
            if last == len(ascending):
                break
            if n_bytes > MAX_READ_BYTES:
                yield _in_order(taken, order[n_yielded:last], file)
                taken, n_bytes, n_yielded = [], 0, last
    if offset <= ascending[-1]:
        raise ValueError(f"{file}: row group {row_group} has {offset} rows, and row {ascending[-1]} was to be read")
    yield _in_order(taken, order[n_yielded:], file)


def _in_order(batches: Sequence[pa.RecordBatch], position: np.ndarray, file: str) -> pa.Table:
    """PAIRS of the rows of the batches, ordered by their positions."""
    return _as_pairs(pa.Table.from_batches(batches).take(pa.array(np.argsort(position))), PAIRS, file)


def rows_at_once(group: pq.RowGroupMetaData, columns: Sequence[str]) -> int:
    """The number of rows of a row group, at least one, that have about MAX_READ_BYTES in these columns."""
    n_bytes = 1.0
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema.partition(".")[0] in columns:
            n_bytes += column.total_uncompressed_size / max(1, group.num_rows)
            if column.path_in_schema.startswith(INLINE_COLUMNS) and column.has_dictionary_page:
                # each row may repeat all of the dictionary
                dictionary_bytes = column.data_page_offset - column.dictionary_page_offset
                n_bytes += dictionary_bytes * column.total_uncompressed_size / max(1, column.total_compressed_size)
    return max(1, int(MAX_READ_BYTES / n_bytes))


def open_parquet(uri: str) -> pq.ParquetFile:
    """One Parquet file, opened. Raises FileNotFoundError, or ValueError naming it if it is not Parquet."""
    fs, path = storage.open_uri(uri)
    with _value_errors(f"{uri} is not a Parquet file"):
        return pq.ParquetFile(path, filesystem=fs)


def drop_oversized_keypoints(rows: pa.Table) -> tuple[pa.Table, dict[str, Failure]]:
    """PAIRS rows without the keypoints of pairs that have more than MAX_KEYPOINTS; the failures of these by pair_id."""
    failures: dict[str, Failure] = {}
    for name in _KEYPOINT_COLUMNS:
        counts = _n_points(rows[name], name)
        too_many = pc.greater(counts, MAX_KEYPOINTS)
        if pc.any(too_many).as_py():
            for pair_id, n in zip(rows["pair_id"].filter(too_many), counts.filter(too_many), strict=True):
                message = f"{name} has {n} points; at most {MAX_KEYPOINTS}"
                failures[pair_id.as_py()] = Failure("manifest", "too_many_keypoints", message)
            kept = pc.if_else(too_many, pa.scalar(None, rows[name].type), rows[name])
            rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), kept)
    return rows, failures


def _n_points(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """The number of points, or of ids, of each row; of lists of such lists that of all of them."""
    counts = pc.fill_null(pc.list_value_length(column), 0)
    if name not in ("target_valid_xy_px", "mirror_keypoint_ids", "geometry_groups"):
        return counts
    row = pc.list_parent_indices(column)
    parts = pc.fill_null(pc.list_value_length(pc.list_flatten(column)), 0)
    n_points = np.bincount(row.to_numpy(), weights=parts.to_numpy(), minlength=len(column)).astype(np.int64)
    return pa.chunked_array([np.maximum(n_points, counts.to_numpy())])


class _File:
    """One Parquet file of a manifest. Its footer is read once; its bytes are opened once if they are kept open."""

    def __init__(self, uri: str, *, keep_open: bool, read_ahead: int) -> None:
        self.uri = uri
        self._keep_open = keep_open
        self._read_ahead = read_ahead
        self._source: pa.NativeFile | None = None
        with self.source() as source, _value_errors(f"{uri} is not a Parquet file"):
            footer = pq.ParquetFile(source)
            self.metadata, self._schema = footer.metadata, footer.schema_arrow

    @contextmanager
    def source(self) -> Iterator[pa.NativeFile]:
        """The file's bytes."""
        source = self._source or open_source(self.uri, self._read_ahead)
        if self._keep_open:
            self._source = source
        try:
            yield source
        finally:
            if not self._keep_open:
                source.close()

    def close(self) -> None:
        if self._source:
            self._source.close()
        self._source = None

    def check(self) -> None:
        """Raises SchemaError if the columns are not those of PAIRS, or there are far more keypoints than allowed.

        And, in a file that does not say that it is PAIRS, if a value does not fit.
        """
        with _value_errors(f"{self.uri} is damaged"):
            _check_columns(self._schema, self.uri)
            _check_lengths(self.metadata, self.uri)
        if b"schema_version" not in (self._schema.metadata or {}):
            self._check_values()

    def _check_values(self) -> None:
        """Raises SchemaError, naming the row, for a value that does not fit its column; inline images are not read."""
        unsure = [
            field.name
            for field in PAIRS
            if field.name in self._schema.names
            and field.name not in INLINE_COLUMNS
            and not _is_text(self._schema.field(field.name).type)
            and not has_exact_type(self._schema.field(field.name), field)
        ]
        expected, first_row = _schema(unsure), 0
        with self.parquet() as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=unsure):
                rows = conform(pa.Table.from_batches([batch]), expected, self.uri, first_row=first_row)
                _refuse_missing_points(rows, self.uri, first_row)
                first_row += batch.num_rows

    @contextmanager
    def parquet(self, row_groups: Sequence[int] | None = None) -> Iterator[pq.ParquetFile]:
        """The file as Parquet. Texts of dictionaries stay so: each is held, and its length checked, once.

        row_groups: those that will be read; None for all.
        """
        groups = range(self.metadata.num_row_groups) if row_groups is None else row_groups
        with self.source() as source, _value_errors(f"{self.uri} is damaged"):
            texts = [field.name for field in self._schema if _is_text(field.type)]
            once = [name for name in texts if _is_dictionary(self.metadata, groups, name)]
            yield pq.ParquetFile(source, metadata=self.metadata, read_dictionary=once)


def open_source(uri: str, read_ahead: int) -> pa.NativeFile:
    """The bytes of a file. Raises FileNotFoundError.

    read_ahead: bytes that each request to a store adds to what is read, 0 for none. fsspec's default may be 50 MB.
    """
    fs, path = storage.open_uri(uri)
    if isinstance(fs, LocalFileSystem):
        return pa.OSFile(path)
    cache = {"cache_type": "readahead", "block_size": read_ahead} if read_ahead else {"cache_type": "none"}
    return pa.PythonFile(fs.open(path, "rb", **cache), "r")


def _schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([PAIRS.field(name) for name in columns], metadata=PAIRS.metadata)


def _present(columns: Sequence[str], parquet: pq.ParquetFile) -> list[str]:
    return [name for name in columns if name in parquet.schema_arrow.names]


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
    except OtherTableError:
        raise
    except SchemaError as error:
        raise SchemaError(f"{error}. If other software wrote it, `{_prepare(file)}` makes a manifest of it") from error


def _refuse_missing_points(rows: pa.Table, file: str, first_row: int) -> None:
    """Raises SchemaError for a keypoint -1,-1, as other software writes one that is missing: it would be matched."""
    for name in _POINT_COLUMNS:
        if name not in rows.column_names:
            continue
        numbers = rows[name]
        while pa.types.is_list(numbers.type):
            numbers = pc.list_flatten(numbers)
        if (numbers.to_numpy().reshape(-1, 2) == -1).all(axis=1).any():
            row = next(row for row, points in enumerate(rows[name].to_pylist()) if _has_missing(points))
            raise SchemaError(
                f"{file}, row {first_row + row + 1}: column {name} has a keypoint -1,-1. If it is a missing one, "
                f"`{_prepare(file)}` leaves it out"
            )


def _has_missing(points: list[Any] | None) -> bool:
    """Whether a list of points, or of lists of them, has -1,-1."""
    return any(part == [-1, -1] or (isinstance(part, list) and _has_missing(part)) for part in points or [])


def _prepare(file: str) -> str:
    """The command that makes a manifest of a table."""
    return f"nemf prepare --dataset table --annotations {shlex.quote(file)} --root IMAGES --out PAIRS.parquet"


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


def _is_dictionary(metadata: pq.FileMetaData, row_groups: Sequence[int], name: str) -> bool:
    """Whether a column is written as a dictionary, and in no encoding that pyarrow 26 cannot read as one."""
    paths = [metadata.schema.column(number).path for number in range(metadata.num_columns)]
    chunks = (metadata.row_group(index).column(paths.index(name)) for index in row_groups)
    encodings = {encoding for chunk in chunks for encoding in chunk.encodings}
    return any("DICTIONARY" in encoding for encoding in encodings) and not any("DELTA" in other for other in encodings)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


@contextmanager
def _value_errors(prefix: str) -> Iterator[None]:
    """Turn what Arrow raises into a ValueError that begins with `prefix`; errors of a store are left as they are."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        if isinstance(error, OSError) and (error.errno or type(error) is not OSError):
            raise
        raise ValueError(f"{prefix}: {' '.join(str(error).split())[:300]}") from error
