import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import table
from pipeline.datasets.common.interface import PairRow, Rejected
from schemas.check import conform
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
        ("occlusion", "1.5", "field occlusion: expected a whole number, got '1.5'"),
        ("source_xy_px", '"[[1, 2], [3]]"', "field source_xy_px, point 1: expected [x, y], got [3.0]"),
        ("source_xy_px", '"[[1, 2], [3, 4]"', "expected 'x,y;x,y', got '[[1, 2], [3, 4]' (it is no list)"),
        ("source_xy_px", "[[0. 1.] ... [8. 9.]]", "(values are left out, as NumPy prints long arrays)"),
        ("source_xy_px", '"1,2;-5,3"', "field source_xy_px, point 1 is [-5.0, 3.0]; a point that is missing is -1,-1"),
        ("source_xy_px", '"-1,30"', "field source_xy_px, point 0 is [-1.0, 30.0]; a point that is missing is -1,-1"),
        ("occlusion", "9", "field occlusion: expected a level in 0..3, got 9"),
        ("seen_in_training", "yes", "field seen_in_training: expected true or false, got 'yes'"),
    ],
)
def test_what_is_wrong_is_named_with_its_line_and_column(tmp_path, column, cell, detail):
    (rejected,) = read(tmp_path, f"source_uri,target_uri,{column}\na.jpg,b.jpg,{cell}\n")
    assert rejected.where == f"{tmp_path}/pairs.csv, line 2"
    assert detail in rejected.detail


def test_wrong_types_in_parquet(tmp_path):
    (rejected,) = read(tmp_path, [{"source_uri": "a", "target_uri": "b", "pair_id": 3.5}])
    assert rejected.detail == "field pair_id: expected text, got 3.5"
    (rejected,) = read(tmp_path, [{"source_uri": "a", "target_uri": "b", "occlusion": 1.5}])
    assert rejected.detail == "field occlusion: expected a whole number, got 1.5"
    (rejected,) = read(tmp_path, [{"source_uri": "a", "target_uri": "b", "seen_in_training": 2}])
    assert rejected.detail == "field seen_in_training: expected true or false, got 2"
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


POINTS = [[1.5, 2.0], [3.0, 4.25]]
URIS = {"source_uri": "a", "target_uri": "b"}


def test_lists_in_cells_as_pandas_writes_them(tmp_path):
    of_lists = {"source_xy_px": POINTS, "keypoint_id": ["left eye", "it's"], "source_box_xyxy": [1.0, 2.0, 30.0, 40.5]}
    of_tuples = {name: tuple(map(tuple, v)) if name == "source_xy_px" else tuple(v) for name, v in of_lists.items()}
    of_json = {name: json.dumps(value) for name, value in of_lists.items()}
    of_arrays = {name: np.array(value) for name, value in of_lists.items()}
    of_objects = of_arrays | {"source_xy_px": np.array([*map(np.float32, POINTS), None], object)[:2]}
    of_scalars = of_lists | {"source_xy_px": [list(map(np.float32, point)) for point in POINTS]}
    for values in (of_lists, of_tuples, of_json, of_arrays, of_objects, of_scalars):
        csv = pd.DataFrame([{**URIS, **values}]).to_csv(index=False)
        (row,) = read(tmp_path, csv)
        assert isinstance(row, PairRow), row
        assert (row.source_xy_px, row.keypoint_id) == ([(1.5, 2), (3, 4.25)], ["left eye", "it's"])
        assert row.source_box_xyxy == (1, 2, 30, 40.5)


def test_a_manifest_as_pandas_writes_it_to_csv(tmp_path):
    """Arrays of arrays in a column, which pandas prints as NumPy does, over several lines."""
    points = [[float(n), n + 0.5] for n in range(60)]
    ids = [f"point {n}" for n in range(60)]
    pairs = pa.Table.from_pylist([FULL | {"source_xy_px": points, "target_xy_px": points, "keypoint_id": ids}], PAIRS)
    (row,) = read(tmp_path, pairs.to_pandas().to_csv())
    assert row.source_xy_px == row.target_xy_px == [tuple(point) for point in points]
    assert (row.keypoint_id, row.source_box_xyxy, row.occlusion) == (ids, (0, 1, 2, 3), 0)
    assert row.seen_in_training is True


def test_values_of_other_types_that_are_the_same(tmp_path):
    uuid = UUID("12345678-1234-5678-1234-567812345678")
    record = {
        **URIS,
        "pair_id": 7,
        "category": 3.0,
        "viewpoint_variation": 2.0,
        "occlusion": Decimal("1.0"),
        "seen_in_training": 1,
        "source_xy_px": [[Decimal("1.5"), Decimal("2.0")]],
        "keypoint_id": [0],
    }
    (row,) = read(tmp_path, [record])
    assert (row.pair_id, row.category, row.viewpoint_variation, row.occlusion) == ("7", "3", 2, 1)
    assert (row.seen_in_training, row.source_xy_px, row.keypoint_id) == (True, [(1.5, 2)], ["0"])
    (row,) = read(tmp_path, [{**URIS, "viewpoint_variation": float("nan"), "category": float("nan")}])
    assert row.viewpoint_variation is row.category is None
    (row,) = read(tmp_path, [{**URIS, "source_xy_px": "1.5,2;3,4.25", "keypoint_id": '["a", "b"]', "occlusion": "3"}])
    assert (row.source_xy_px, row.keypoint_id, row.occlusion) == ([(1.5, 2), (3, 4.25)], ["a", "b"], 3)
    for kind in (pa.uuid(), pa.binary(16), pa.binary()):
        ids = pa.array([uuid.bytes], pa.binary(16)).cast(kind)
        file = tmp_path / "uuid.parquet"
        pq.write_table(pa.table({**{name: [uri] for name, uri in URIS.items()}, "pair_id": ids}), file)
        (row,) = table.pairs(table.Options(root=str(file), out="out.parquet"))
        assert row.pair_id == str(uuid)


def test_ids_of_many_digits_and_names_with_brackets(tmp_path):
    (row,) = read(tmp_path, [{**URIS, "pair_id": Decimal("12345678901234567891"), "category": 2**62 + 1}])
    assert (row.pair_id, row.category) == ("12345678901234567891", str(2**62 + 1))
    (row,) = read(tmp_path, "source_uri,target_uri,keypoint_id\na,b,(left) eye;nose [tip];none\n")
    assert row.keypoint_id == ["(left) eye", "nose [tip]", "none"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [("True", True), ("False", False), ("TRUE", True), ("t", True), ("1", True), ("0.0", False), ("", None)],
)
def test_true_and_false_as_programs_write_them(tmp_path, cell, expected):
    (row,) = read(tmp_path, f"source_uri,target_uri,seen_in_training,truncation\na,b,{cell},2.0\n")
    assert (row.seen_in_training, row.truncation) == (expected, 2)


def test_the_index_of_pandas_is_left_out(tmp_path):
    frame = pd.DataFrame({**URIS, "category": list("aba")})[lambda rows: rows["category"] == "a"]
    frame.to_parquet(tmp_path / "pairs.parquet")
    of_parquet = list(table.pairs(table.Options(root=str(tmp_path / "pairs.parquet"), out="out.parquet")))
    for csv in (frame.to_csv(), frame.reset_index().to_csv(), frame.to_csv(index_label="Unnamed: 0")):
        of_csv = read(tmp_path, csv)
        assert [row.pair_id for row in of_csv] == [row.pair_id for row in of_parquet]
        assert [row.category for row in of_csv] == ["a", "a"]


@pytest.mark.parametrize("missing", ["-1,-1", "nan,nan", "NaN,NaN", "-1.0,-1.0", "null,null", ","])
def test_points_that_are_missing_are_left_out_on_both_sides(tmp_path, missing):
    cells = f'"1,2;{missing};3,4;5,6;{missing}","1,2;3,4;{missing};7,8;{missing}",a;b;c;d;e'
    row, note = read(tmp_path, f"source_uri,target_uri,source_xy_px,target_xy_px,keypoint_id\na,b,{cells}\n")
    assert (row.source_xy_px, row.target_xy_px) == ([(1, 2), (5, 6)], [(1, 2), (7, 8)])
    assert row.keypoint_id == ["a", "d"]
    assert (note.count, note.where) == (3, f"{tmp_path}/pairs.csv, line 2")
    assert "missing in one of its images (-1,-1 or nan,nan or null)" in note.what


@pytest.mark.parametrize(
    "cell", ["[[1, 2], null]", "[(1.0, 2.0), None]", "[array([1., 2.]) None]", "[[1, 2], [NaN, NaN]]"]
)
def test_points_that_are_missing_in_lists_of_text(tmp_path, cell):
    row, note = read(tmp_path, f'source_uri,target_uri,source_xy_px,target_xy_px\na,b,"{cell}","1,2;3,4"\n')
    assert (row.source_xy_px, row.target_xy_px, note.count) == ([(1, 2)], [(1, 2)], 1)


def test_points_that_are_missing_in_parquet(tmp_path):
    nan = float("nan")
    record = {**URIS, "source_xy_px": [[1.0, 2.0], None, [nan, nan], [None, None]], "target_xy_px": [[5.0, -0.5]] * 4}
    row, note = read(tmp_path, [record])
    assert (row.source_xy_px, row.target_xy_px, note.count) == ([(1, 2)], [(5, -0.5)], 3)
    (rejected,) = read(tmp_path, [{**record, "target_xy_px": [[5.0, 6.0]] * 3}])
    assert "source_xy_px has 4, target_xy_px has 3" in rejected.detail


def test_all_points_missing_is_a_pair_without_keypoints(tmp_path):
    row, note = read(tmp_path, 'source_uri,target_uri,source_xy_px,target_xy_px\na,b,"-1,-1","1,2"\n')
    assert (row.source_xy_px, row.target_xy_px, note.count) == ([], [], 1)


def write_parts(folder: Path, names: list[str], frames: list[pd.DataFrame]) -> str:
    folder.mkdir()
    for name, frame in zip(names, frames, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            frame.to_parquet(folder / name)
        else:
            frame.to_csv(folder / name, index=False)
    return str(folder)


FRAMES = [pd.DataFrame({"source_uri": [f"{n}.png"], "target_uri": [f"{n + 1}.png"]}) for n in range(3)]


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("spark.parquet", [f"part-{n:05d}-0f3b-c000.snappy.parquet" for n in range(3)]),
        ("spark.csv", [f"part-{n:05d}-0f3b-c000.csv" for n in range(3)]),
        ("spark.csv", [f"part-{n:05d}-0f3b-c000.csv.gz" for n in range(3)]),
        ("duckdb", [f"data_{n}.parquet" for n in range(3)]),
        ("daft", [f"{n}f2c1d6e-0.parquet" for n in range(3)]),
    ],
)
def test_a_folder_of_parts(tmp_path, folder, names):
    root = write_parts(tmp_path / folder, names, FRAMES)
    for name in ("_SUCCESS", "._SUCCESS.crc", f".{names[0]}.crc", "_metadata", "_common_metadata", "part-9.csv"):
        if not (name == "part-9.csv" and folder != "spark.csv"):  # Spark writes a file without bytes for no rows
            (tmp_path / folder / name).write_bytes(b"")
    write_parts(tmp_path / folder / "_temporary", ["0.parquet"], FRAMES[:1])
    rows = list(table.pairs(table.Options(root=root, out="out.parquet")))
    starts = root if "." not in folder else str(tmp_path)
    assert [(row.source_uri, row.where) for row in rows] == [
        (f"{starts}/{n}.png", f"{root}/{name}, {'row 1' if name.endswith('.parquet') else 'line 2'}")
        for n, name in enumerate(names)
    ]


def test_a_folder_of_partitions(tmp_path):
    names = [
        "category=cat/data_0.parquet",
        "category=big%20dog/data_0.parquet",
        "category=__HIVE_DEFAULT_PARTITION__/0.csv",
    ]
    root = write_parts(tmp_path / "pairs", names, FRAMES)
    rows = list(table.pairs(table.Options(root="/images", annotations=root, out="out.parquet")))
    assert {row.source_uri: row.category for row in rows} == {
        "/images/0.png": "cat",
        "/images/1.png": "big dog",
        "/images/2.png": None,
    }
    both = [FRAMES[0].assign(category="cat")]  # Parquet that has the column of its folder too
    (row,) = table.pairs(table.Options(root=write_parts(tmp_path / "both", ["category=cat/0.parquet"], both), out="o"))
    assert row.category == "cat"
    write_parts(tmp_path / "other", ["klass=cat/0.parquet"], FRAMES[:1])
    with pytest.raises(ValueError, match="unknown column klass"):
        list(table.pairs(table.Options(root=str(tmp_path / "other"), out="out.parquet")))


def test_a_folder_that_the_manifest_would_be_written_into(tmp_path):
    root = write_parts(tmp_path / "pairs", ["0.parquet"], FRAMES[:1])
    with pytest.raises(ValueError, match="is also an input"):
        list(table.pairs(table.Options(root=root, out=f"{root}/0.parquet")))


def test_a_cell_of_ten_thousand_points(tmp_path):
    points = ";".join(f"{n}.123456,{n}.654321" for n in range(10_000))
    assert len(points) > 131_072
    (row,) = read(tmp_path, f'source_uri,target_uri,source_xy_px\na,b,"{points}"\n')
    assert len(row.source_xy_px) == 10_000


def test_images_that_come_inline_are_written_beside_the_manifest(tmp_path):
    out = tmp_path / "made" / "pairs.parquet"
    records = [
        {"pair_id": "a", "source_image": b"first", "target_image": b"second", "category": "cat"},
        {"pair_id": "b", "source_image": b"second", "target_image": b"first", "category": "cat"},
    ]
    of_hugging_face = [
        {name: {"bytes": value, "path": None} if name.endswith("image") else value for name, value in record.items()}
        for record in records
    ]
    for written in (records, of_hugging_face):
        pq.write_table(pa.Table.from_pylist(written), tmp_path / "pairs.parquet")
        first, second = table.pairs(table.Options(root=str(tmp_path / "pairs.parquet"), out=str(out)))
        assert Path(first.source_uri).read_bytes() == Path(second.target_uri).read_bytes() == b"first"
        assert (first.source_uri, first.target_uri) == (second.target_uri, second.source_uri)
        assert {file.parent for file in map(Path, (first.source_uri, first.target_uri))} == {
            out.parent / "pairs_images"
        }
    pq.write_table(
        pa.Table.from_pylist([{"source_image": {"bytes": None, "path": "a.png"}, "target_uri": "b.png"}]),
        tmp_path / "pairs.parquet",
    )
    (row,) = table.pairs(table.Options(root=str(tmp_path / "pairs.parquet"), out=str(out)))
    assert (row.source_uri, row.target_uri) == (f"{tmp_path}/a.png", f"{tmp_path}/b.png")
    (rejected,) = read(tmp_path, [{"source_image": None, "target_uri": "b.png"}])
    assert rejected.detail == "field source_uri: expected text, but it is absent or empty"


def test_a_manifest_that_pandas_filtered_is_a_table(tmp_path):
    rows = [FULL, {**FULL, "pair_id": "q", "occlusion": None, "source_xy_px": None, "keypoint_id": None}, FULL]
    frame = pa.Table.from_pylist(rows, PAIRS).to_pandas()
    frame[frame["pair_id"] == "q"].to_parquet(tmp_path / "q.parquet")
    (row,) = table.pairs(table.Options(root=str(tmp_path / "q.parquet"), out="out.parquet"))
    assert (row.pair_id, row.occlusion, row.truncation, row.source_xy_px) == ("q", None, 3, None)
    assert (row.target_xy_px, row.source_box_xyxy) == ([(5, 6), (7, 8)], (0, 1, 2, 3))


_TYPES = pa.schema([(name, PAIRS.field(name).type) for name in PAIRS.names if not name.endswith("_image")])

LATER_CSV = """\
source_uri,target_uri,source_xy_px,target_xy_px,keypoint_id,keypoint_probability,target_category,level,source_visibility,target_visibility,\
source_all_xy_px,source_all_keypoint_id,target_all_xy_px,target_all_keypoint_id,mirror_keypoint_ids,geometry_groups,\
target_valid_xy_px,source_other_boxes_xyxy,target_other_boxes_xyxy,azimuth_difference,mirrored,source_flow_uri,target_flow_uri,flow_format,source_mask_uri,target_mask_uri
a.jpg,b.jpg,"1,2;3,4","5,6;7,8",l;r,"1,0.5",dog,cross-family,1;2,2;2,"1,2;3,4;9,9",l;r;tail,"5,6;7,8",l;r,\
"[[""l"", ""r""]]","[[""l"", ""r"", ""tail""]]","[[[5, 6], [6, 6]], [[7, 8]]]","[[0, 1, 4, 5]]",[],3,true,a.flo,s3://x/b.flo,flo,a.png,b.png
"""
LATER = {
    "source_uri": "a.jpg",
    "target_uri": "b.jpg",
    "source_xy_px": [[1, 2], [3, 4]],
    "target_xy_px": [[5, 6], [7, 8]],
    "keypoint_id": ["l", "r"],
    "keypoint_probability": [1, 0.5],
    "target_category": "dog",
    "level": "cross-family",
    "source_visibility": [1, 2],
    "target_visibility": [2, 2],
    "source_all_xy_px": [[1, 2], [3, 4], [9, 9]],
    "source_all_keypoint_id": ["l", "r", "tail"],
    "target_all_xy_px": [[5, 6], [7, 8]],
    "target_all_keypoint_id": ["l", "r"],
    "mirror_keypoint_ids": [["l", "r"]],
    "geometry_groups": [["l", "r", "tail"]],
    "target_valid_xy_px": [[[5, 6], [6, 6]], [[7, 8]]],
    "source_other_boxes_xyxy": [[0, 1, 4, 5]],
    "target_other_boxes_xyxy": [],
    "azimuth_difference": 3,
    "mirrored": True,
    "source_flow_uri": "a.flo",
    "target_flow_uri": "s3://x/b.flo",
    "flow_format": "flo",
    "source_mask_uri": "a.png",
    "target_mask_uri": "b.png",
}


def test_columns_that_only_some_protocols_read_in_both_formats(tmp_path):
    (of_csv,), (of_parquet,) = read(tmp_path, LATER_CSV), read(tmp_path, [LATER])
    assert of_csv.pair_id == of_parquet.pair_id
    for row in (of_csv, of_parquet):
        absolute = {
            "source_uri": "/images/a.jpg",
            "target_uri": "/images/b.jpg",
            "source_flow_uri": "/images/a.flo",
            "target_flow_uri": "s3://x/b.flo",
            "source_mask_uri": "/images/a.png",
            "target_mask_uri": "/images/b.png",
        }
        values = pa.Table.from_pylist([{name: getattr(row, name) for name in LATER}]).to_pylist()[0]
        assert values == {**LATER, **absolute}
        conform(
            pa.Table.from_pylist([{name: getattr(row, name) for name in PAIRS.names if hasattr(row, name)}]), PAIRS, ""
        )


def test_the_default_ids_of_rows_without_later_columns_are_those_of_earlier_versions(tmp_path):
    header = "source_uri,target_uri,category,source_xy_px,target_xy_px,occlusion"
    rows = 'a.jpg,b.jpg,cat,"1,2;3,4.5","5,6;7,8",1\nc.jpg,d.jpg,,,,\n'
    expected = ["19711c6c56863e2b", "9b1c43da4e5823af"]  # as version 2 of PAIRS had them
    assert [row.pair_id for row in read(tmp_path, f"{header}\n{rows}")] == expected
    (first, _) = read(
        tmp_path, f"{header},level\n" + rows.replace(",1\n", ",1,intra-species\n").replace(",,,\n", ",,,,\n")
    )
    assert first.pair_id != expected[0]


def test_what_belongs_to_a_missing_keypoint_is_left_out_with_it(tmp_path):
    row, note, note_of_all = read(
        tmp_path,
        [{**LATER, "target_xy_px": [[-1, -1], [7, 8]], "source_all_xy_px": [[1, 2], [-1, -1], [9, 9]]}],
    )
    assert (row.source_xy_px, row.target_xy_px, row.keypoint_id) == ([(3, 4)], [(7, 8)], ["r"])
    assert (row.source_visibility, row.target_visibility, row.target_valid_xy_px) == ([2], [2], [[(7, 8)]])
    assert (row.source_all_xy_px, row.source_all_keypoint_id) == ([(1, 2), (9, 9)], ["l", "tail"])
    assert (note.count, note_of_all.count) == (1, 1)
    assert note.what != note_of_all.what


@pytest.mark.parametrize(
    ("changed", "detail"),
    [
        ({"source_visibility": [2]}, "source_visibility has 1"),
        (
            {"source_visibility": [0, 2]},
            "field source_visibility: expected a list of whole numbers in 1..2, got [0, 2]",
        ),
        ({"target_valid_xy_px": [[[1, 1]]]}, "target_valid_xy_px has 1"),
        ({"target_valid_xy_px": [[[-1, -1]], [[7, 8]]]}, "field target_valid_xy_px, keypoint 0 is [-1.0, -1.0]"),
        ({"source_all_keypoint_id": ["l"]}, "source_all_xy_px has 3, source_all_keypoint_id has 1"),
        ({"source_all_keypoint_id": None}, "field source_all_xy_px is given, but not source_all_keypoint_id"),
        ({"mirror_keypoint_ids": [["l"]]}, "field mirror_keypoint_ids: expected [left, right] each"),
        ({"keypoint_probability": [1, 2]}, "field keypoint_probability: expected a list of numbers in 0..1"),
        ({"azimuth_difference": 5}, "field azimuth_difference: expected a level in 0..4, got 5"),
        ({"flow_format": None}, "field source_flow_uri is given, but not flow_format"),
        ({"flow_format": "kitti"}, "field flow_format: expected flo, got 'kitti'"),
        ({"source_xy_px": None, "target_xy_px": None}, "field source_visibility is given, but not source_xy_px"),
    ],
)
def test_a_fault_in_columns_that_only_some_protocols_read_rejects_the_row(tmp_path, changed, detail):
    rejected, row = read(tmp_path, pa.Table.from_pylist([{**LATER, **changed}, LATER], _TYPES).to_pylist())
    assert isinstance(rejected, Rejected)
    assert detail in rejected.detail
    assert rejected.where.endswith("row 1")
    assert isinstance(row, PairRow)


@pytest.mark.parametrize(
    ("column", "text", "detail"),
    [
        ("source_visibility", "1;x", "field source_visibility: expected '1;2', got '1;x'"),
        ("geometry_groups", "l;r", """field geometry_groups: expected '[["name", "name"]]', got 'l;r'"""),
        ("mirrored", "maybe", "field mirrored: expected true or false, got 'maybe'"),
    ],
)
def test_text_of_columns_that_only_some_protocols_read_that_cannot_be_read(tmp_path, column, text, detail):
    (rejected,) = read(tmp_path, f"source_uri,target_uri,{column}\na,b,{text}\n")
    assert rejected.detail == detail


@pytest.mark.parametrize(("annotations", "message"), [(None, "got /images"), ("pairs.xlsx", "a .csv or .parquet file")])
def test_the_file_must_be_one_of_the_two_formats(annotations, message):
    with pytest.raises(ValueError, match=message):
        list(table.pairs(table.Options(root="/images", out="out.parquet", annotations=annotations)))
