"""Lines of text and rows of CSV and Parquet files, each row with its file and number."""

import csv
import gzip
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.interface import TABLE_SUFFIXES, DataError
from pipeline.io import storage
from pipeline.io.manifest import rows_at_once
from pipeline.io.row_count import check_row_count
from schemas.check import is_index_column

_BATCH_ROWS = 256
_CELL_BYTES = 2**24
"""Maximum size of a CSV cell; 10,000 keypoints in full precision have 400 kB."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def text_lines(uri: str) -> list[str]:
    """The lines of a text file. Raises ValueError if it is not UTF-8, FileNotFoundError if there is no file."""
    try:
        return storage.read_bytes(uri).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{uri}: not a text file in UTF-8: {error}") from error


@dataclass(frozen=True, kw_only=True)
class TableFile:
    """One file of a table."""

    uri: str
    partition: Mapping[str, str | None]
    """The columns that the names of its folders give, such as category=cat, if the table is partitioned."""

    @property
    def is_csv(self) -> bool:
        return not self.uri.endswith(".parquet")


def table_files(uri: str, what: str, out: str) -> list[TableFile]:
    """The files of a table, in order of name: `uri`, or the parts of a folder as Spark, DuckDB and Daft write them.

    Files whose names begin with '.' or '_' are no parts. Folders named column=value are searched, and no others.
    what: what the table is and what has a row of it, for errors. out: the file that will be written.
    Raises FileNotFoundError or ValueError where there is none, and ValueError where `out` is one of them.
    """
    if uri.endswith(TABLE_SUFFIXES) and storage.is_file(uri):
        files = [TableFile(uri=uri, partition=_NOTHING)]
    else:
        files = list(_parts(uri, {}))
    if not files:
        if uri.endswith(TABLE_SUFFIXES) and not storage.exists(uri):
            raise FileNotFoundError(f"there is no table {uri}")
        raise ValueError(f"{what}, or a folder of them, given by --annotations; got {uri}")
    storage.refuse_overwrite(out, *(file.uri for file in files))
    return files


def _parts(folder: str, partition: Mapping[str, str | None]) -> Iterator[TableFile]:
    for file in storage.list_files(folder, ""):
        if file.endswith(TABLE_SUFFIXES) and not file.rpartition("/")[2].startswith("_"):
            yield TableFile(uri=file, partition=partition)
    for name in sorted(storage.folder_names(folder)):
        column, equals, value = name.partition("=")
        if equals and not name.startswith((".", "_")):
            known = None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
            yield from _parts(storage.join(folder, name), {**partition, unquote(column): known})


@dataclass(frozen=True, slots=True)
class CsvRow:
    """The cells of one row, not yet compared with the header."""

    where: str
    header: list[str]
    cells: list[str]

    def fields(self) -> Fields:
        """The cells by column name. DataError if there are more or fewer of them than columns."""
        if len(self.cells) != len(self.header):
            detail = f"expected {len(self.header)} cells, as in the header, got {len(self.cells)}"
            raise DataError(self.where, "malformed CSV", detail)
        cells = zip(self.header, self.cells, strict=True)
        return Fields({name: cell for name, cell in cells if not is_index_column(name)}, self.where)


def csv_rows(
    uri: str, required: Collection[str], known: Collection[str] | None = None, *, may_be_empty: bool = False
) -> Iterator[CsvRow]:
    """The rows of a CSV file with a header, compressed if its name ends in .gz; blank lines are left out.

    may_be_empty: a file of no bytes has no rows.
    Raises ValueError if one of the `required` columns is absent, if one is not `known` (None allows any), and if the
    file is not CSV in UTF-8; FileNotFoundError if there is no file.
    """
    fs, path = storage.open_uri(uri)
    compression = "gzip" if uri.endswith(".gz") else None
    with fs.open(path, "r", encoding="utf-8-sig", newline="", compression=compression) as file:
        csv.field_size_limit(_CELL_BYTES)
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            if may_be_empty and not header:
                return
            _check_columns(header, required, known, uri)
            for cells in reader:
                if cells:
                    yield CsvRow(f"{uri}, line {reader.line_num}", header, cells)
        except (csv.Error, UnicodeDecodeError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{uri}, after line {reader.line_num}: not CSV in UTF-8: {error}") from error


def parquet_rows(
    uri: str,
    required: Collection[str],
    known: Collection[str] | None = None,
    *,
    optional: Collection[str] = (),
    instead: Mapping[str, Collection[str]] = _NOTHING,
) -> Iterator[Fields]:
    """The rows of a Parquet file: the `required` columns and those of the `optional` or `known` ones that it has.

    instead: for a `required` column, other columns of which one may take its place.
    Raises as csv_rows does.
    """
    fs, path = storage.open_uri(uri)
    with fs.open(path, "rb") as file:
        number = 0
        try:
            parquet = pq.ParquetFile(file)
            header = parquet.schema_arrow.names
            needed = [name for name in required if not set(header).intersection(instead.get(name, ()))]
            _check_columns(header, needed, known, uri)
            wanted = known or (*required, *optional)
            chosen = [name for name in header if name in wanted]
            for group in range(parquet.num_row_groups):
                first, n_rows = number, parquet.metadata.row_group(group).num_rows
                n_read = min(_BATCH_ROWS, rows_at_once(parquet.metadata.row_group(group), chosen))
                for batch in parquet.iter_batches(n_read, row_groups=[group], columns=chosen):
                    for record in batch.to_pylist():
                        number += 1
                        yield Fields(record, f"{uri}, row {number}")
                check_row_count(number - first, n_rows, f"{uri}, row group {group},")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{uri}, after row {number}: cannot be read as Parquet: {error}") from error


def _check_columns(header: list[str], required: Collection[str], known: Collection[str] | None, uri: str) -> None:
    header = [name for name in header if not is_index_column(name)]
    missing = [name for name in required if name not in header]
    if missing:
        present = ", ".join(header) or "none"
        raise ValueError(f"{uri}: column {', '.join(missing)} is missing; there are: {present}")
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise ValueError(f"{uri}: column {', '.join(repeated)} occurs more than once")
    unknown = [name for name in header if known and name not in known]
    if unknown:
        raise ValueError(f"{uri}: unknown column {', '.join(unknown)}; known are: {', '.join(known or ())}")
