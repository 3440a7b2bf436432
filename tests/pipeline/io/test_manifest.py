import pickle
import re
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from earlier_tables import as_earlier
from installed import needs
from lost_rows import write_with_lost_row
from make import pair_row, write_pairs
from PIL import Image

from jobs import prepare
from pipeline.io import manifest as manifest_module
from pipeline.io.manifest import (
    MAX_KEYPOINTS,
    MAX_TEXT_BYTES,
    Manifest,
    drop_oversized_keypoints,
    read_pairs,
    read_rows,
)
from schemas.check import SchemaError
from schemas.failures import Failure
from schemas.metrics import METRICS
from schemas.pairs import PAIRS


def test_a_folder_is_read_in_order_of_name(tmp_path: Path) -> None:
    write_pairs(tmp_path / "b.parquet", [pair_row("3")])
    write_pairs(tmp_path / "a.parquet", [pair_row("2"), pair_row("1")])

    assert read_pairs(str(tmp_path))["pair_id"].to_pylist() == ["2", "1", "3"]


@pytest.mark.parametrize("columns", [["pair_id"], ["source_uri"], ["source_uri", "target_uri"]])
def test_pages_with_fewer_rows_than_the_footer_says_are_damage(columns: list[str], tmp_path: Path) -> None:
    """Arrow reads them without a word, and the last pairs would be lost."""
    rows = pa.Table.from_pylist([pair_row(f"{n}", source_uri="0.png") for n in range(20)], PAIRS)
    file = write_with_lost_row(tmp_path / "a.parquet", rows, columns)

    with Manifest(file) as manifest:
        message = "is damaged: (there are 19 rows to be read, and 20 by its footer|columns do not have the same size)"
        with pytest.raises(ValueError, match=message):
            manifest.read(columns)
        with pytest.raises(ValueError, match=message):
            list(manifest.windows(columns, 8))
        if "pair_id" in columns:
            with pytest.raises(ValueError, match=message):
                manifest.ids()


def test_inline_images_are_read_only_when_named(tmp_path: Path) -> None:
    file = write_pairs(tmp_path / "a.parquet", [pair_row("1", source_image=b"jpeg")])

    assert "source_image" not in read_pairs(file).column_names
    assert read_pairs(file, ["source_image"])["source_image"].to_pylist() == [b"jpeg"]


def test_rows_of_a_row_group_come_in_the_order_asked_for(tmp_path: Path) -> None:
    rows = [pair_row(str(index)) for index in range(5000)]
    file = write_pairs(tmp_path / "a.parquet", rows, row_group_size=3000)

    (taken,) = read_rows(file, 0, np.array([2999, 0, 1024, 1023], np.int32))

    assert taken["pair_id"].to_pylist() == ["2999", "0", "1024", "1023"]
    assert taken.schema.equals(PAIRS)
    (taken,) = read_rows(file, 1, np.array([5], np.int32))
    assert taken["pair_id"].to_pylist() == ["3005"]


@pytest.mark.parametrize("use_dictionary", [False, True])
def test_large_images_are_read_in_tables_of_few_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use_dictionary: bool
) -> None:
    """128 images of 17 MB, the slice of a run, are more than the 2 GiB that a column of Arrow's binary can have."""
    monkeypatch.setattr(manifest_module, "MAX_READ_BYTES", 10_000)
    images = [bytes([index]) * (10_000 if index == 9 else 1000) for index in range(100)]
    rows = [pair_row(str(index), source_image=image) for index, image in enumerate(images)]
    file = write_pairs(tmp_path / "a.parquet", rows, use_dictionary=use_dictionary, compression="none")
    chosen = np.array([40, 7, 9, 8, 3, 99, *range(41, 80)], np.int32)

    tables = list(read_rows(file, 0, chosen))

    assert max(table.nbytes for table in tables) < 25_000
    assert len(tables) > 3
    ids = [table["pair_id"].to_pylist() for table in tables]
    assert ids[0] == [pair_id for pair_id in map(str, chosen) if pair_id in ids[0]]
    read = pa.concat_tables(tables).to_pylist()
    assert sorted(row["pair_id"] for row in read) == sorted(map(str, chosen))
    assert all(row["source_image"] == images[int(row["pair_id"])] for row in read)
    with Manifest(file) as manifest:
        windows = list(manifest.windows(["pair_id", "source_image"], 50))
    assert max(window.rows.num_rows for window in windows) < 12
    assert [window.first_row for window in windows] == list(np.cumsum([0, *(w.rows.num_rows for w in windows[:-1])]))
    assert [image for w in windows for image in w.rows["source_image"].to_pylist()] == images


def test_the_digest_changes_with_any_value(tmp_path: Path) -> None:
    first = write_pairs(tmp_path / "a.parquet", [pair_row("1")])
    digest = Manifest(first).digest()
    write_pairs(tmp_path / "a.parquet", [pair_row("1", source_xy_px=[[1.0, 2.0], [10.0, 5.0], [30.0, 20.5]])])

    assert Manifest(first).digest() != digest


def test_a_table_that_pandas_wrote_is_told_how_to_become_a_manifest(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    points = [[[1.0, 2.0], [3.0, 4.5]]]
    written = tmp_path / "my pairs.parquet"
    pd.DataFrame(
        {
            "source_uri": ["a.png"],
            "target_uri": ["a.png"],
            "source_xy_px": points,
            "target_xy_px": points,
            "occlusion": [1],
        }
    ).to_parquet(written)

    with pytest.raises(SchemaError, match="column pair_id is missing") as refused:
        Manifest(str(written))
    command = re.findall("`nemf prepare (.*)`", str(refused.value))[0]
    meant = {"IMAGES": str(tmp_path), "PAIRS.parquet": f"{tmp_path}/pairs.parquet"}
    assert prepare.main([meant.get(word, word) for word in shlex.split(command)]) == 0

    rows = read_pairs(f"{tmp_path}/pairs.parquet")
    assert (rows["source_xy_px"].to_pylist(), rows["occlusion"].to_pylist()) == (points, [1])


def test_images_as_hugging_face_stores_them(tmp_path: Path) -> None:
    images = [{"bytes": b"first", "path": None}, {"bytes": b"second", "path": "b.png"}]
    pq.write_table(
        pa.table({"pair_id": ["1", "2"], "source_image": images, "target_image": images}), tmp_path / "a.parquet"
    )

    (rows,) = read_rows(f"{tmp_path}/a.parquet", 0, np.array([1, 0]))

    assert rows["source_image"].to_pylist() == rows["target_image"].to_pylist() == [b"second", b"first"]
    with Manifest(str(tmp_path)) as manifest:
        (window,) = manifest.windows(["source_image"], 9)
    assert window.rows["source_image"].to_pylist() == [b"first", b"second"]


@needs("pyarrow", "26", "cannot read null in a list of a fixed size, which earlier versions of nemf wrote")
def test_a_manifest_of_the_version_before_is_read(tmp_path: Path) -> None:
    rows = pa.Table.from_pylist([pair_row("1", source_box_xyxy=[1.0, 2.0, 3.0, 4.0]), pair_row("2")], PAIRS)
    pq.write_table(pa.Table.from_pylist(rows.to_pylist(), as_earlier(PAIRS)), tmp_path / "a.parquet")

    assert read_pairs(str(tmp_path), PAIRS.names).equals(rows)
    assert list(read_rows(f"{tmp_path}/a.parquet", 0, np.array([0, 1]))) == [rows]


@pytest.fixture
def filtered(tmp_path: Path) -> pd.DataFrame:
    """A manifest as pandas reads it, of three rows, its first filtered out."""
    rows = [
        pair_row("0"),
        pair_row("1", keypoint_id=["a", "b", "c"], source_box_xyxy=[1.0, 2.0, 3.0, 4.0], occlusion=2),
        pair_row("2", source_xy_px=None, target_xy_px=[], seen_in_training=True, source_image=b"png"),
    ]
    return pd.read_parquet(write_pairs(tmp_path / "all.parquet", rows))[1:]


def test_a_manifest_that_pandas_filtered_is_one(tmp_path: Path, filtered: pd.DataFrame) -> None:
    filtered.to_parquet(tmp_path / "filtered.parquet")
    file = str(tmp_path / "filtered.parquet")
    expected = read_pairs(str(tmp_path / "all.parquet"), PAIRS.names).slice(1)

    assert read_pairs(file, PAIRS.names).equals(expected)
    assert [rows.to_pylist() for rows in read_rows(file, 0, np.array([1, 0]))] == [expected.to_pylist()[::-1]]
    with Manifest(file) as manifest:
        assert manifest.ids().to_pylist() == ["1", "2"]
        assert [row for w in manifest.windows(PAIRS.names, 1) for row in w.rows.to_pylist()] == expected.to_pylist()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("occlusion", 2.5, "filtered.parquet, row 2: column occlusion is 2.5, which is no int8"),
        ("source_box_xyxy", [1, 2, 3], r"filtered.parquet, row 2: column source_box_xyxy is \[1.*3\D*\], which is no"),
        ("target_xy_px", [[1, 2], [-1, -1]], r"row 2: column target_xy_px has a keypoint -1,-1\..* leaves it out"),
        ("target_all_xy_px", [[1, 2], [-1, -1]], r"row 2: column target_all_xy_px has a keypoint -1,-1\."),
        ("target_valid_xy_px", [[[1, 2]], [[-1, -1]]], r"row 2: column target_valid_xy_px has a keypoint -1,-1\."),
        ("source_xy_px", [[1, 2, 3]], r"filtered.parquet, row 2: column source_xy_px is .* of 2 numbers each"),
    ],
)
def test_what_does_not_fit_is_named_when_the_manifest_is_opened(
    tmp_path: Path, filtered: pd.DataFrame, column: str, value: object, message: str
) -> None:
    filtered.assign(**{column: [None, value]}).to_parquet(tmp_path / "filtered.parquet")

    with pytest.raises(SchemaError, match=message):
        Manifest(str(tmp_path / "filtered.parquet"))


def test_a_manifest_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no manifest at"):
        Manifest(str(tmp_path))
    (tmp_path / "a.csv").touch()
    with pytest.raises(
        FileNotFoundError, match=r"a\.csv: .*; make a manifest of a table with nemf prepare --dataset tab"
    ):
        Manifest(str(tmp_path / "a.csv"))
    (tmp_path / "a.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet file"):
        Manifest(str(tmp_path))
    pq.write_table(METRICS.empty_table(), tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match=r"a\.parquet is a METRICS table, expected PAIRS$"):
        Manifest(str(tmp_path))
    pq.write_table(pa.table({"id": ["1"]}), tmp_path / "a.parquet")
    with pytest.raises(SchemaError, match="column pair_id is missing"):
        Manifest(str(tmp_path / "a.parquet"))


def test_ids_come_in_the_order_of_the_manifest(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.parquet", [pair_row("2"), pair_row("1")])
    write_pairs(tmp_path / "b.parquet", [pair_row("0")])

    assert Manifest(str(tmp_path)).ids().to_pylist() == ["2", "1", "0"]


def test_repeated_ids_are_refused_across_files(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.parquet", [pair_row("1"), pair_row("twice")])
    write_pairs(tmp_path / "b.parquet", [pair_row("twice")])

    with pytest.raises(SchemaError, match="1 pair_id occur more than once, for instance 'twice'"):
        Manifest(str(tmp_path)).ids()


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="the manifest has no rows"):
        Manifest(write_pairs(tmp_path / "a.parquet", [])).ids()


@pytest.mark.parametrize(("most", "opened"), [(2, 1), (1, 5)])
def test_files_stay_open_unless_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, opened: int
) -> None:
    for name in ("a", "b"):
        write_pairs(tmp_path / f"{name}.parquet", [pair_row(f"{name}{n}") for n in range(3)], row_group_size=2)
    opens: Counter[str] = Counter()
    open_file = manifest_module.open_source

    def counting(uri: str, read_ahead: int) -> pa.NativeFile:
        opens[uri] += 1
        return open_file(uri, read_ahead)

    monkeypatch.setattr(manifest_module, "open_source", counting)
    monkeypatch.setattr(manifest_module, "MAX_OPEN_FILES", most)
    with Manifest(str(tmp_path)) as manifest:
        assert manifest.ids().to_pylist() == ["a0", "a1", "a2", "b0", "b1", "b2"]
        assert manifest.n_pairs == 6
        assert manifest.row_groups == [
            (f"{tmp_path}/{name}.parquet", *group) for name in "ab" for group in ((0, 2), (1, 1))
        ]
        assert manifest.digest() == manifest.digest()
        assert [window.rows.num_rows for window in manifest.windows(["source_uri"], 9)] == [2, 1, 2, 1]

    assert opens == {f"{tmp_path}/a.parquet": opened, f"{tmp_path}/b.parquet": opened}


def _with_column(name: str, values: pa.Array) -> pa.Table:
    """A manifest of as many rows as there are values of one column."""
    rows = pa.Table.from_pylist([pair_row(str(index)) for index in range(len(values))], PAIRS)
    return rows.set_column(PAIRS.get_field_index(name), name, values)


def _read_all(file: str) -> None:
    """The rows that a job reads, in its order."""
    with Manifest(file) as manifest:
        manifest.ids()
        for _, group, first, rows in manifest.windows(["source_uri", "target_uri"], 100):
            list(read_rows(file, group, np.arange(first, first + rows.num_rows, dtype=np.int32)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pa.table({"pair_id": pa.nulls(2)}), "column pair_id is null, schema says string"),
        (_with_column("pair_id", pa.array(["1", None])), "column pair_id has 1 nulls and may have none"),
        (_with_column("pair_id", pa.array([1, 2])), "column pair_id is int64, schema says string"),
        (_with_column("source_xy_px", pa.array([["x"]])), "column source_xy_px is list<element: string>, schema says"),
        (
            _with_column("source_xy_px", pa.array([[[[1.0]]]])),
            "column source_xy_px is list<element: list<element: list",
        ),
        (_with_column("source_uri", pa.array([["a.png"]])), "column source_uri is list<element: string>"),
        (pa.table([["1"], ["cat"], ["dog"]], ["pair_id", "category", "category"]), "column category occurs 2 times"),
        (pa.table([["1"], ["cat"]], ["pair_id", "Category"]), "column Category is not in the schema"),
        (pa.table({}), "column pair_id is missing"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_columns_that_are_wrong_are_named(tmp_path: Path, rows: pa.Table, message: str) -> None:
    file = str(tmp_path / "a.parquet")
    pq.write_table(rows, file)

    with pytest.raises(SchemaError, match=r"a\.parquet") as error:
        _read_all(file)

    assert message in str(error.value)


def test_columns_of_nothing_but_null_are_allowed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"pair_id": ["1"], "category": pa.nulls(1)}), tmp_path / "a.parquet")

    assert read_pairs(str(tmp_path))["category"].to_pylist() == [None]


def test_a_file_cut_anywhere_is_named(tmp_path: Path) -> None:
    whole = Path(write_pairs(tmp_path / "a.parquet", [pair_row("1")])).read_bytes()

    for length in (*range(0, len(whole), 97), len(whole) - 8, len(whole) - 4, len(whole) - 1):
        (tmp_path / "a.parquet").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.parquet is not a Parquet file: "):
            _read_all(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ((0).to_bytes(4, "little") + b"PAR1", "No more data to read"),
        ((9).to_bytes(4, "little") + b"PAR1", "Couldn't deserialize thrift"),
        ((2**31 - 1).to_bytes(4, "little") + b"PAR1", "smaller than the size reported by footer"),
        ((2**32 - 1).to_bytes(4, "little") + b"PAR1", "smaller than the size reported by footer"),
        ((100).to_bytes(4, "little") + b"PARE", "encrypted"),
    ],
    ids=["empty", "short", "2 GB", "4 GB", "encrypted"],
)
def test_a_footer_that_is_wrong_is_named(tmp_path: Path, end: bytes, message: str) -> None:
    file = Path(write_pairs(tmp_path / "a.parquet", [pair_row("1")]))
    file.write_bytes(file.read_bytes()[:-8] + end)

    with pytest.raises(ValueError, match=rf"a\.parquet is not a Parquet file: .*{message}"):
        _read_all(str(file))


@pytest.mark.parametrize("column", ["pair_id", "source_uri", "category", "keypoint_id"])
def test_text_that_is_not_utf8_is_named(tmp_path: Path, column: str) -> None:
    values = pa.array([b"caf\xe9"]).view(pa.string())
    nested = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), values)
    pq.write_table(_with_column(column, nested if column == "keypoint_id" else values), tmp_path / "a.parquet")

    with pytest.raises(SchemaError, match=rf"a\.parquet: column {column} is damaged: .*Invalid UTF8"):
        _read_all(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize("column", ["pair_id", "source_uri", "category"])
@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}], ids=["dictionary", "plain"])
def test_long_texts_are_refused(tmp_path: Path, column: str, options: dict[str, bool]) -> None:
    for length in (MAX_TEXT_BYTES, MAX_TEXT_BYTES + 1):
        pq.write_table(_with_column(column, pa.array(["x" * length])), tmp_path / f"{length}.parquet", **options)

    _read_all(str(tmp_path / f"{MAX_TEXT_BYTES}.parquet"))
    message = f"column {column} has a text of {MAX_TEXT_BYTES + 1} bytes; at most {MAX_TEXT_BYTES}"
    with pytest.raises(SchemaError, match=message):
        _read_all(str(tmp_path / f"{MAX_TEXT_BYTES + 1}.parquet"))


def test_a_long_text_that_a_dictionary_repeats_is_refused_before_it_is_many(tmp_path: Path) -> None:
    length = MAX_TEXT_BYTES + 1
    repeated = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), pa.array(["x" * length]))
    ids = pa.array([str(index) for index in range(1000)])
    pq.write_table(pa.table({"pair_id": ids, "source_uri": repeated}), tmp_path / "a.parquet", store_schema=False)
    file = str(tmp_path / "a.parquet")

    with pytest.raises(SchemaError, match=f"column source_uri has a text of {length} bytes"):
        list(Manifest(file).windows(["source_uri"], 65_536))


@pytest.mark.parametrize(
    "options",
    [
        {"use_dictionary": False},
        {"use_dictionary": False, "column_encoding": {"source_uri": "DELTA_BYTE_ARRAY", "pair_id": "DELTA_BYTE_ARRAY"}},
        {"data_page_version": "2.0", "row_group_size": 3},
        {"compression": "zstd"},
    ],
    ids=["plain", "deltas", "pages of version 2", "zstd"],
)
def test_every_encoding_of_parquet_is_read(tmp_path: Path, options: dict[str, object]) -> None:
    rows = [pair_row(str(index), source_uri=f"{index % 2}.png") for index in range(7)]
    file = write_pairs(tmp_path / "a.parquet", rows, **options)

    assert read_pairs(file)["source_uri"].to_pylist() == [row["source_uri"] for row in rows]
    assert Manifest(file).ids().to_pylist() == [row["pair_id"] for row in rows]


def test_ids_may_hold_any_characters(tmp_path: Path) -> None:
    ids = ["a\nb", "a\0b", "../../etc/passwd", "C:\\x", "\u202egpj.exe", "a\u0301", "\u00e1", "", " "]
    file = write_pairs(tmp_path / "a.parquet", [pair_row(pair_id) for pair_id in ids])

    assert Manifest(file).ids().to_pylist() == ids


class _Planted:
    """A pickle of it leaves a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.marker), "w")


def test_nothing_in_a_manifest_is_unpickled(tmp_path: Path) -> None:
    """pyarrow once unpickled the extension type `arrow.py_extension_type`; pandas reads metadata of its own."""
    marker = tmp_path / "was here"
    planted = pickle.dumps(_Planted(marker))
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": planted}
    rows = _with_column("category", pa.array(["cat"]))
    schema = rows.schema.set(PAIRS.get_field_index("category"), pa.field("category", pa.string(), metadata=extension))
    pq.write_table(rows.cast(schema).replace_schema_metadata({"pandas": planted}), tmp_path / "a.parquet")

    _read_all(str(tmp_path / "a.parquet"))

    assert read_pairs(str(tmp_path))["category"].to_pylist() == ["cat"]
    assert not marker.exists()


def _points(n: int) -> list[list[float]]:
    return [[1.0, 2.0]] * n


def test_a_row_with_too_many_keypoints_loses_them_and_is_named() -> None:
    rows = pa.Table.from_pylist(
        [
            pair_row("most", source_xy_px=_points(MAX_KEYPOINTS), target_xy_px=None),
            pair_row("more", source_xy_px=_points(MAX_KEYPOINTS + 1)),
            pair_row("more names", keypoint_id=["ear"] * (MAX_KEYPOINTS + 1)),
            pair_row("few"),
            pair_row("more of all", source_all_xy_px=_points(MAX_KEYPOINTS + 1)),
            pair_row("more valid", target_valid_xy_px=[[], _points(MAX_KEYPOINTS), _points(1)]),
            pair_row("more lists", target_valid_xy_px=[[]] * (MAX_KEYPOINTS + 1)),
            pair_row("few of all", source_all_xy_px=_points(3), target_valid_xy_px=[_points(2), _points(1)]),
        ],
        PAIRS,
    )

    kept, failures = drop_oversized_keypoints(rows)

    messages = {
        "more": f"source_xy_px has {MAX_KEYPOINTS + 1} points; at most {MAX_KEYPOINTS}",
        "more names": f"keypoint_id has {MAX_KEYPOINTS + 1} points; at most {MAX_KEYPOINTS}",
        "more of all": f"source_all_xy_px has {MAX_KEYPOINTS + 1} points; at most {MAX_KEYPOINTS}",
        "more valid": f"target_valid_xy_px has {MAX_KEYPOINTS + 1} points; at most {MAX_KEYPOINTS}",
        "more lists": f"target_valid_xy_px has {MAX_KEYPOINTS + 1} points; at most {MAX_KEYPOINTS}",
    }
    assert failures == {key: Failure("manifest", "too_many_keypoints", text) for key, text in messages.items()}
    assert kept.schema.equals(PAIRS)
    assert [len(points or []) for points in kept["source_xy_px"].to_pylist()][:4] == [MAX_KEYPOINTS, 0, 3, 3]
    assert [len(points or []) for points in kept["target_xy_px"].to_pylist()][:4] == [0, 3, 3, 3]
    assert kept["keypoint_id"].null_count == len(rows)
    assert kept["target_valid_xy_px"].to_pylist()[:7] == [None] * 7
    assert kept["target_valid_xy_px"].to_pylist()[7] == rows["target_valid_xy_px"].to_pylist()[7]


def test_a_file_of_nothing_but_too_many_keypoints_is_refused_unread(tmp_path: Path) -> None:
    file = write_pairs(tmp_path / "a.parquet", [pair_row("1", source_xy_px=_points(10**5))])

    with pytest.raises(SchemaError, match=r"a\.parquet: column source_xy_px\..* has 200000 numbers in the 1 rows"):
        Manifest(file)
