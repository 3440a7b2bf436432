from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import table
from pipeline.datasets.common.interface import PairRow, Rejected
from schemas.pairs import PAIRS

FULL_CSV = """\
pair_id,source_uri,target_uri,category,dataset,split,source_xy_px,target_xy_px,keypoint_id,source_box_xyxy,\
target_box_xyxy,viewpoint_variation,scale_variation,truncation,occlusion,seen_in_training
p,a.jpg,s3://bucket/b.jpg,cat,mine,val,"1,2;3,4.5","5,6;7,8",nose;tail,"0,1,2,3","4,5,6,7",2,1,3,0,true
"""
FULL = {
    "pair_id": "p",
    "source_uri": "a.jpg",
    "target_uri": "s3://bucket/b.jpg",
    "category": "cat",
    "dataset": "mine",
    "split": "val",
    "source_xy_px": [[1, 2], [3, 4.5]],
    "target_xy_px": [[5, 6], [7, 8]],
    "keypoint_id": ["nose", "tail"],
    "source_box_xyxy": [0, 1, 2, 3],
    "target_box_xyxy": [4, 5, 6, 7],
    "viewpoint_variation": 2,
    "scale_variation": 1,
    "truncation": 3,
    "occlusion": 0,
    "seen_in_training": True,
}


def read(folder: Path, what: str | bytes | list[dict[str, Any]]) -> list[PairRow | Rejected]:
    file = folder / ("pairs.parquet" if isinstance(what, list) else "pairs.csv")
    if isinstance(what, list):
        pq.write_table(pa.Table.from_pylist(what), file)
    else:
        file.write_bytes(what if isinstance(what, bytes) else what.encode())
    return list(table.pairs(table.Options(root="/images", out="out.parquet", annotations=str(file))))


def test_the_table_alone_is_enough_when_its_folder_is_the_root(tmp_path):
    (tmp_path / "pairs.csv").write_text("source_uri,target_uri\na.jpg,sub/b.jpg\n")

    (row,) = table.pairs(table.Options(root=str(tmp_path / "pairs.csv"), out="out.parquet"))

    assert isinstance(row, PairRow)
    assert (row.source_uri, row.target_uri) == (f"{tmp_path}/a.jpg", f"{tmp_path}/sub/b.jpg")


def test_every_column_in_both_formats(tmp_path):
    for place, what in (("pairs.csv, line 2", FULL_CSV), ("pairs.parquet, row 1", [FULL])):
        assert read(tmp_path, what) == [
            PairRow(
                where=f"{tmp_path}/{place}",
                pair_id="p",
                source_uri="/images/a.jpg",
                target_uri="s3://bucket/b.jpg",
                category="cat",
                dataset="mine",
                split="val",
                source_xy_px=[(1, 2), (3, 4.5)],
                target_xy_px=[(5, 6), (7, 8)],
                keypoint_id=["nose", "tail"],
                source_box_xyxy=(0, 1, 2, 3),
                target_box_xyxy=(4, 5, 6, 7),
                viewpoint_variation=2,
                scale_variation=1,
                truncation=3,
                occlusion=0,
                seen_in_training=True,
            )
        ]


def test_two_columns_are_enough(tmp_path):
    (row,) = read(tmp_path, "\ufeffsource_uri,target_uri\r\na.jpg,b c.jpg\r\n")
    assert row.target_uri == "/images/b c.jpg"
    assert row.source_xy_px is row.category is row.occlusion is None


def test_points_in_one_image_only(tmp_path):
    (row,) = read(tmp_path, 'source_uri,target_uri,source_xy_px,target_xy_px\na.jpg,b.jpg,"1,2",\n')
    assert row.source_xy_px == [(1, 2)]
    assert row.target_xy_px is None


def test_the_default_id_is_a_hash_of_what_is_in_the_row(tmp_path):
    first, second, again = read(tmp_path, "source_uri,target_uri,category\na,b,\na,c,\na,b,\n")
    assert first.pair_id == again.pair_id != second.pair_id
    assert read(tmp_path, [{"target_uri": "b", "source_uri": "a"}])[0].pair_id == first.pair_id


def test_the_default_id_is_the_same_for_numbers_of_another_precision(tmp_path):
    (of_text,) = read(
        tmp_path, 'source_uri,target_uri,source_xy_px,source_box_xyxy,occlusion\na,b,"1.1,2","0,0,3,4.7",1\n'
    )
    (other_points,) = read(tmp_path, 'source_uri,target_uri,source_xy_px\na,b,"1.2,2"\n')
    record = {"source_uri": "a", "target_uri": "b", "source_xy_px": [[1.1, 2]], "source_box_xyxy": [0, 0, 3, 4.7]}
    (of_doubles,) = read(tmp_path, [record | {"occlusion": 1}])
    as_in_pairs = pa.Table.from_pylist([record | {"occlusion": 1}], schema=PAIRS).select([*record, "occlusion"])
    pq.write_table(as_in_pairs, tmp_path / "float32.parquet")
    (of_floats,) = table.pairs(table.Options(root=str(tmp_path / "float32.parquet"), out="out.parquet"))
    assert of_floats.pair_id == of_doubles.pair_id == of_text.pair_id != other_points.pair_id


@pytest.mark.parametrize(
    ("column", "cell", "detail"),
    [
        ("source_xy_px", '"1,2;3"', "field source_xy_px, point 1: expected [x, y], got [3.0]"),
        ("source_xy_px", "1 2", "field source_xy_px: expected 'x,y;x,y', got '1 2'"),
        ("source_xy_px", '"1,nan"', "field source_xy_px, point 0 is [1.0, nan]"),
        ("keypoint_id,target_xy_px", 'a,"1,2;3,4"', "target_xy_px has 2, keypoint_id has 1; they must be equally long"),
        ("source_box_xyxy", '"1,2,3"', "field source_box_xyxy: expected a box"),
        ("occlusion", "1.0", "field occlusion: expected a whole number, got '1.0'"),
        ("occlusion", "9", "field occlusion: expected a level in 0..3, got 9"),
        ("seen_in_training", "yes", "field seen_in_training: expected true or false, got 'yes'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_column(tmp_path, column, cell, detail):
    (rejected,) = read(tmp_path, f"source_uri,target_uri,{column}\na.jpg,b.jpg,{cell}\n")
    assert rejected.where == f"{tmp_path}/pairs.csv, line 2"
    assert detail in rejected.detail


def test_wrong_types_in_parquet(tmp_path):
    (rejected,) = read(tmp_path, [{"source_uri": "a", "target_uri": "b", "pair_id": 3}])
    assert rejected.detail == "field pair_id: expected text, got 3"
    (rejected,) = read(tmp_path, [{"source_uri": "a", "target_uri": "b", "category": b"cat"}])
    assert rejected.detail == "field category: expected text, got b'cat'"
    (rejected,) = read(tmp_path, [{"source_uri": None, "target_uri": "b"}])
    assert rejected.detail == "field source_uri: expected text, but it is absent or empty"


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("source_uri,target_uri,klass\n", "unknown column klass; known are: pair_id, source_uri, target_uri, category"),
        ([{"source_uri": "a", "target_uri": "b", "klass": 1}], "unknown column klass"),
        ("source_uri,category\n", "column target_uri is missing; there are: source_uri, category"),
        ("", "column source_uri, target_uri is missing; there are: none"),
        ("source_uri,target_uri,target_uri\n", "column target_uri occurs more than once"),
        (b"source_uri,target_uri\n\xff,b\n", "not CSV in UTF-8"),
        ('source_uri,target_uri\n"a"b,c\n', "not CSV in UTF-8"),
    ],
)
def test_another_table_is_refused(tmp_path, what, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, what)


def test_a_damaged_table_is_named(tmp_path):
    file = tmp_path / "pairs.parquet"
    columns = {"source_uri": ["a" * 1000] * 300, "target_uri": ["b" * 1000] * 300}
    pq.write_table(pa.table(columns), file, compression="zstd", use_dictionary=False)
    page = pq.ParquetFile(file).metadata.row_group(0).column(0)
    data = bytearray(file.read_bytes())
    end = page.data_page_offset + page.total_compressed_size
    data[end - 20 : end] = bytes(20)
    file.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{file}, after row 0: cannot be read as Parquet: .*"):
        list(table.pairs(table.Options(root=str(file), out="out.parquet")))


def test_text_that_is_not_utf8_in_parquet(tmp_path):
    file = tmp_path / "pairs.parquet"
    text = pa.array([b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"source_uri": text, "target_uri": text}), file)
    with pytest.raises(ValueError, match=rf"{file}, after row 0: cannot be read as Parquet: .*decode"):
        list(table.pairs(table.Options(root=str(file), out="out.parquet")))


@pytest.mark.parametrize(("annotations", "message"), [(None, "got /images"), ("pairs.xlsx", "a .csv or .parquet file")])
def test_the_file_must_be_one_of_the_two_formats(annotations, message):
    with pytest.raises(ValueError, match=message):
        list(table.pairs(table.Options(root="/images", out="out.parquet", annotations=annotations)))
