from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make import pair_row, write_pairs

from pipeline.manifest import manifest_digest, manifest_files, read_ids, read_pairs, read_rows
from schemas.check import SchemaError
from schemas.pairs import PAIRS


def test_a_folder_is_read_in_order_of_name(tmp_path: Path) -> None:
    write_pairs(tmp_path / "b.parquet", [pair_row("3")])
    write_pairs(tmp_path / "a.parquet", [pair_row("2"), pair_row("1")])

    assert read_pairs(str(tmp_path))["pair_id"].to_pylist() == ["2", "1", "3"]


def test_inline_images_are_read_only_when_named(tmp_path: Path) -> None:
    file = write_pairs(tmp_path / "a.parquet", [pair_row("1", source_image=b"jpeg")])

    assert "source_image" not in read_pairs(file).column_names
    assert read_pairs(file, ["source_image"])["source_image"].to_pylist() == [b"jpeg"]


def test_rows_of_a_row_group_come_in_the_order_asked_for(tmp_path: Path) -> None:
    rows = [pair_row(str(index)) for index in range(5000)]
    file = write_pairs(tmp_path / "a.parquet", rows, row_group_size=3000)

    taken = read_rows(file, 0, np.array([2999, 0, 1024, 1023], np.int32))

    assert taken["pair_id"].to_pylist() == ["2999", "0", "1024", "1023"]
    assert taken.schema.equals(PAIRS)
    assert read_rows(file, 1, np.array([5], np.int32))["pair_id"].to_pylist() == ["3005"]


def test_the_digest_changes_with_any_value(tmp_path: Path) -> None:
    first = write_pairs(tmp_path / "a.parquet", [pair_row("1")])
    digest = manifest_digest([first])
    write_pairs(tmp_path / "a.parquet", [pair_row("1", source_xy_px=[[1.0, 2.0], [10.0, 5.0], [30.0, 20.5]])])

    assert manifest_digest([first]) != digest


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no manifest at"):
        manifest_files(str(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet file"):
        manifest_files(str(tmp_path))
    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match="column pair_id is missing"):
        manifest_files(str(tmp_path / "a.parquet"))


def test_ids_come_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.parquet", [pair_row("2"), pair_row("1")])
    write_pairs(tmp_path / "b.parquet", [pair_row("0")])

    assert read_ids(str(tmp_path)).to_pylist() == ["2", "1", "0"]


def test_repeated_ids_are_refused_across_files(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.parquet", [pair_row("1"), pair_row("twice")])
    write_pairs(tmp_path / "b.parquet", [pair_row("twice")])

    with pytest.raises(SchemaError, match="1 pair_id occur more than once, for instance 'twice'"):
        read_ids(str(tmp_path))


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="the manifest has no rows"):
        read_ids(write_pairs(tmp_path / "a.parquet", []))
