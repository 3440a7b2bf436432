"""Parquet files whose pages have lost a row that the footer still counts."""

import re
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_N_VALUES = re.compile(rb"\x15\x28(?=\x15\x00)")
"""In a page header: 20 values, in the plain encoding."""


def write_with_lost_row(file: Path, table: pa.Table, columns: Iterable[str]) -> str:
    """Write a table of 20 rows, of which these columns have 19, though the footer says 20. Returns the file's path.

    columns: of those before the first nested one.
    """
    assert table.num_rows == 20
    pq.write_table(table, file, compression="none", use_dictionary=False)
    damaged = bytearray(file.read_bytes())
    pages = [page.start() for page in _N_VALUES.finditer(damaged)]
    for name in columns:
        damaged[pages[table.column_names.index(name)] + 1] = 0x26  # 19
    file.write_bytes(damaged)
    return str(file)
