from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.prepare import main
from pipeline.datasets import photographs
from pipeline.datasets.common.interface import DatasetOptions, PairRow, Rejected


def photograph(image_id: str | None, jpeg: bytes | None = b"jpeg of ") -> dict[str, Any]:
    return {"image_id": image_id, "label": "cat", "jpeg": jpeg and jpeg + (image_id or "none").encode()}


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def read(root: Path, out: Path) -> list[PairRow | Rejected]:
    return list(photographs.pairs(DatasetOptions(root=str(root), out=str(out / "pairs.parquet"))))


@pytest.mark.parametrize(
    ("names", "pair_ids"),
    [("ab", ["a:b"]), ("abc", ["a:b", "c:a"]), ("dabc", ["d:a", "b:c"]), ("abcde", ["a:b", "c:d", "e:a"])],
)
def test_two_after_one_another_and_an_odd_last_one_with_the_first(tmp_path, names, pair_ids):
    file = write(tmp_path / "images.parquet", [photograph(name) for name in names])
    rows = read(file, tmp_path / "out")
    assert [row.pair_id for row in rows] == pair_ids
    assert all(row.source_xy_px is None and row.keypoint_id is None for row in rows)
    folder = tmp_path / "out" / "pairs_images"
    assert (rows[0].source_uri, rows[0].target_uri) == (f"{folder}/{names[0]}.jpg", f"{folder}/{names[1]}.jpg")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        f"{name}.jpg": f"jpeg of {name}".encode() for name in names
    }


def test_a_folder_of_files_in_the_order_of_their_names(tmp_path):
    write(tmp_path / "data" / "2.parquet", [photograph("c"), photograph("d")])
    write(tmp_path / "data" / "1.parquet", [photograph("b"), photograph("a")])
    assert [row.pair_id for row in read(tmp_path / "data", tmp_path)] == ["b:a", "c:d"]


def test_without_an_id_the_file_and_row_are_one(tmp_path):
    write(tmp_path / "data" / "x.parquet", [{"jpeg": b"first"}, {"jpeg": b"second"}])
    write(tmp_path / "data" / "y.parquet", [photograph(None), photograph("b")])
    assert [row.pair_id for row in read(tmp_path / "data", tmp_path)] == ["x-1:x-2", "y-1:b"]
    assert (tmp_path / "pairs_images" / "x-2.jpg").read_bytes() == b"second"


@pytest.mark.parametrize(
    ("wrong", "reason", "detail"),
    [
        (photograph("../b"), "wrong value", "field image_id: expected a plain name, got '../b'"),
        (photograph("a", b"other "), "duplicate id", "field image_id: a was there before"),
        (photograph("c", None), "missing field", "field jpeg: expected bytes"),
    ],
)
def test_what_is_wrong_is_named_and_the_others_stay(tmp_path, wrong, reason, detail):
    file = write(tmp_path / "images.parquet", [photograph("a"), photograph("b"), wrong, photograph("d")])
    rejected, *rows = read(file, tmp_path)
    assert isinstance(rejected, Rejected)
    assert (rejected.where, rejected.reason) == (f"{file}, row 3", reason)
    assert detail in rejected.detail
    assert [row.pair_id for row in rows] == ["a:b", "d:a"]
    assert (tmp_path / "pairs_images" / "a.jpg").read_bytes() == b"jpeg of a"
    assert not (tmp_path / "b.jpg").exists()


def test_what_cannot_be_paired(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no \.parquet file; image files are read by --dataset folder"):
        read(tmp_path, tmp_path)
    file = write(tmp_path / "data" / "one.parquet", [photograph("a")])
    with pytest.raises(ValueError, match=r"one\.parquet has 1 photographs that can be used; a pair needs two"):
        read(file, tmp_path)
    other = write(tmp_path / "data" / "other.parquet", [{"picture": b"x"}])
    with pytest.raises(ValueError, match="column jpeg is missing; there are: picture"):
        read(other, tmp_path)


@pytest.mark.parametrize("column", ["jpeg", "jpg", "png", "webp", "image", "img"])
@pytest.mark.parametrize("is_struct", [False, True])
def test_columns_of_images_as_others_name_and_store_them(tmp_path, column, is_struct):
    images = [b"first", b"second"]
    stored = [{"bytes": image, "path": "image.png"} if is_struct else image for image in images]
    file = write(tmp_path / "x.parquet", [{column: image, "label": 3} for image in stored])
    (row,) = read(file, tmp_path)
    assert row.pair_id == "x-1:x-2"
    assert [Path(uri).read_bytes() for uri in (row.source_uri, row.target_uri)] == images


def test_img2dataset_names_images_and_says_which_were_not_downloaded(tmp_path):
    rows = [
        {"jpg": b"first", "key": "000000000", "url": "x", "status": "success"},
        {"jpg": None, "key": "000000001", "url": "y", "status": "failed_to_download"},
        {"jpg": b"third", "key": "000000002", "url": "z", "status": "success"},
    ]
    rejected, row = read(write(tmp_path / "00000.parquet", rows), tmp_path)
    assert (rejected.reason, rejected.by_design) == ("image that was not downloaded", True)
    assert "field status is 'failed_to_download'" in rejected.detail
    assert row.pair_id == "000000000:000000002"


def test_an_image_that_is_only_a_path_is_named(tmp_path):
    rows = [{"image": {"bytes": image, "path": "a.png"}} for image in (b"first", None, b"third")]
    rejected, row = read(write(tmp_path / "x.parquet", rows), tmp_path)
    assert rejected.detail == "field image: the table has no bytes, only the path 'a.png'"
    assert row.pair_id == "x-1:x-3"


def test_large_photographs_are_read_few_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.io.manifest.MAX_READ_BYTES", 100)
    file = write(tmp_path / "x.parquet", [{"jpeg": bytes([number]) * 50} for number in range(9)])
    sizes = []
    read_batches = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile, "iter_batches", lambda self, n, **k: sizes.append(n) or read_batches(self, n, **k)
    )
    assert len(read(file, tmp_path)) == 5
    assert sizes == [1]


def test_a_file_that_is_read_is_not_written(tmp_path):
    write(tmp_path / "pairs.parquet", [photograph("a"), photograph("b")])
    with pytest.raises(ValueError, match="is also an input"):
        read(tmp_path, tmp_path)


def prepare(root: Path, out: Path, *flags: str) -> int:
    return main(["--dataset", "photographs", "--root", str(root), "--out", str(out), *flags])


def test_the_same_manifest_every_time(tmp_path, capsys):
    file = write(tmp_path / "images.parquet", [photograph(f"{number:04}") for number in range(1025)])
    out = tmp_path / "pairs.parquet"
    assert prepare(file, out, "--relative-uris") == 0
    assert capsys.readouterr().out == f"{out}: 513 pairs, 0 categories, 1,025 images, 0 keypoint pairs\n"
    first = out.read_bytes()
    assert prepare(file, out, "--relative-uris") == 0
    assert out.read_bytes() == first
    table = pd.read_parquet(out)
    assert table["dataset"].unique().tolist() == ["photographs"]
    shown = pd.concat([table["source_uri"], table["target_uri"]]).value_counts()
    assert len(shown) == 1025
    assert shown[shown > 1].to_dict() == {"pairs_images/0000.jpg": 2}
    assert (tmp_path / "pairs_images" / "1024.jpg").read_bytes() == b"jpeg of 1024"


def test_wrong_photographs_end_the_job_or_are_left_out(tmp_path, capsys):
    file = write(tmp_path / "images.parquet", [photograph("a"), photograph("a"), photograph("b"), photograph("c")])
    out = tmp_path / "pairs.parquet"
    assert prepare(file, out) == 2
    assert f"{file}, row 2: duplicate id" in capsys.readouterr().err
    assert not out.exists()
    assert prepare(file, out, "--on-error", "skip") == 0
    assert "left out: 1 x duplicate id" in capsys.readouterr().out
    assert pd.read_parquet(out)["pair_id"].tolist() == ["a:b", "c:a"]


def test_the_real_imagenet_photographs(shared, tmp_path):
    assert prepare(shared / "data" / "imagenet-1000" / "images.parquet", tmp_path / "pairs.parquet") == 0
    assert len(pd.read_parquet(tmp_path / "pairs.parquet")) == 500
    assert len(list((tmp_path / "pairs_images").iterdir())) == 1000
