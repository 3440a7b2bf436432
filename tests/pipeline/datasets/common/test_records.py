from pathlib import Path

import pyarrow as pa
import pytest
from lost_rows import write_with_lost_row

from pipeline.datasets.common.records import parquet_rows


def test_a_table_with_fewer_rows_than_its_footer_says_is_damaged(tmp_path: Path) -> None:
    """Arrow reads it without a word."""
    table = pa.table({"uri": [f"{n}.png" for n in range(20)]})
    file = write_with_lost_row(tmp_path / "a.parquet", table, ["uri"])

    with pytest.raises(ValueError, match="row group 0, is damaged: there are 19 rows to be read, and 20 by its footer"):
        list(parquet_rows(file, ["uri"]))
