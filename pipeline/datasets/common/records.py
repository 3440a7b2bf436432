"""Lines of text and rows of CSV and Parquet files, each row with its file and number."""

import csv
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.interface import DataError
from pipeline.io import storage


def text_lines(uri: str) -> list[str]:
    """The lines of a text file. Raises ValueError if it is not UTF-8, FileNotFoundError if there is no file."""
    try:
        return storage.read_bytes(uri).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{uri}: not a text file in UTF-8: {error}") from error


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
        return Fields(dict(zip(self.header, self.cells, strict=True)), self.where)


def csv_rows(uri: str, required: Collection[str], known: Collection[str] | None = None) -> Iterator[CsvRow]:
    """The rows of a CSV file with a header; blank lines are left out.

    Raises ValueError if one of the `required` columns is absent, if one is not `known` (None allows any), and if the
    file is not CSV in UTF-8; FileNotFoundError if there is no file.
    """
    fs, path = storage.open_uri(uri)
    with fs.open(path, "r", encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
            _check_columns(header, required, known, uri)
            for cells in reader:
                if cells:
                    yield CsvRow(f"{uri}, line {reader.line_num}", header, cells)
        except (csv.Error, UnicodeDecodeError) as error:
            raise ValueError(f"{uri}, after line {reader.line_num}: not CSV in UTF-8: {error}") from error


def parquet_rows(
    uri: str, required: Collection[str], known: Collection[str] | None = None, *, optional: Collection[str] = ()
) -> Iterator[Fields]:
    """The rows of a Parquet file: the `required` columns and those of the `optional` or `known` ones that it has.

    Raises as csv_rows does.
    """
    fs, path = storage.open_uri(uri)
    with fs.open(path, "rb") as file:
        number = 0
        try:
            parquet = pq.ParquetFile(file)
            header = parquet.schema_arrow.names
            _check_columns(header, required, known, uri)
            chosen = header if known else [name for name in header if name in (*required, *optional)]
            for batch in parquet.iter_batches(batch_size=256, columns=chosen):
                for record in batch.to_pylist():
                    number += 1
                    yield Fields(record, f"{uri}, row {number}")
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{uri}, after row {number}: cannot be read as Parquet: {error}") from error


def _check_columns(header: list[str], required: Collection[str], known: Collection[str] | None, uri: str) -> None:
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
