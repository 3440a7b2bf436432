from pathlib import Path

import fsspec
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipeline.datasets.common.interface import PairRow, Rejected
from pipeline.datasets.common.writer import write_manifest
from schemas.check import check_schema
from schemas.pairs import PAIRS


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).touch()
    return folder


def row(images: Path | str, pair_id: str, source: str = "a.jpg", target: str = "b.jpg", **fields: object) -> PairRow:
    return PairRow(
        where="list", pair_id=pair_id, source_uri=f"{images}/{source}", target_uri=f"{images}/{target}", **fields
    )


def test_rows_come_back_and_are_counted(images, tmp_path):
    out = tmp_path / "new" / "pairs.parquet"
    first = row(images, "1", category="cat", source_xy_px=[(1, 2), (3, 4)], target_xy_px=[(5, 6), (7, 8)], truncation=3)
    second = row(images, "2", "c.jpg", category="dog", dataset="theirs", source_box_xyxy=(1, 2, 3, 4))
    one_sided = [row(images, "3", source_xy_px=[(1, 2)]), row(images, "4", target_xy_px=[(1, 2)])]
    summary = write_manifest([first, second, *one_sided], str(out), dataset="ours")
    assert (summary.pairs, summary.keypoints, len(summary.images), len(summary.categories)) == (4, 2, 3, 2)
    assert summary.reasons() == {}
    assert pq.read_schema(out).metadata == PAIRS.metadata
    check_schema(pq.read_schema(out), PAIRS, str(out))
    table = pq.read_table(out).to_pylist()
    assert table[0]["source_xy_px"] == [[1, 2], [3, 4]]
    assert (table[0]["dataset"], table[1]["dataset"]) == ("ours", "theirs")
    assert (table[0]["truncation"], table[1]["truncation"]) == (3, None)
    assert table[1]["source_box_xyxy"] == [1, 2, 3, 4]
    assert [file.name for file in out.parent.iterdir()] == ["pairs.parquet"]


def test_row_groups(images, tmp_path):
    out = tmp_path / "pairs.parquet"
    write_manifest((row(images, str(number)) for number in range(4097)), str(out), dataset="ours")
    metadata = pq.ParquetFile(out).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [4096, 1]
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def wrong(images: Path) -> list[PairRow | Rejected]:
    return [
        row(images, "1"),
        row(images, "1", "c.jpg"),
        row(images, "2", target="d.jpg"),
        row(images / "nowhere", "3"),
        Rejected(pair="4", where="list, line 4", reason="wrong type", detail="field x"),
        row(images, "2"),
    ]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (1, r"list: duplicate pair id: pair_id 1 was there before"),
        (2, r"list: missing image: the target image .*/images/d.jpg is not there"),
        (3, r"list: missing image: the source image .*/nowhere/a.jpg is not there"),
        (4, r"list, line 4: wrong type: field x"),
    ],
)
def test_what_is_wrong_raises_and_leaves_nothing(images, tmp_path, number, message):
    out = tmp_path / "out" / "pairs.parquet"
    with pytest.raises(ValueError, match=message):
        write_manifest([wrong(images)[0], wrong(images)[number]], str(out), dataset="ours")
    assert list(out.parent.iterdir()) == []


def test_an_image_is_a_file_hidden_or_linked_to_but_no_folder(images, tmp_path):
    (images / "folder.jpg").mkdir()
    (images / ".a.jpg").touch()
    for name in ("a.jpg", "folder.jpg", "nothing.jpg"):
        (images / f"to-{name}").symlink_to(images / name)
    names = [".a.jpg", "to-a.jpg", "folder.jpg", "to-folder.jpg", "to-nothing.jpg", "a.jpg/below/b.jpg"]
    rows = [row(images, name, name) for name in names]
    summary = write_manifest(rows, str(tmp_path / "pairs.parquet"), dataset="ours", skip_errors=True)
    assert summary.pairs == 2
    assert [rejected.pair for rejected in summary.rejected] == names[2:]


def test_what_is_wrong_is_left_out_and_listed(images, tmp_path):
    out = tmp_path / "pairs.parquet"
    summary = write_manifest(wrong(images), str(out), dataset="ours", skip_errors=True)
    assert pd.read_parquet(out)["pair_id"].tolist() == ["1", "2"]
    assert summary.reasons() == {"missing image": 2, "duplicate pair id": 1, "wrong type": 1}
    listed = pd.read_csv(f"{out}.skipped.csv", dtype=str)
    assert listed.columns.tolist() == ["pair", "file", "reason", "detail"]
    assert listed["pair"].tolist() == ["1", "2", "3", "4"]
    assert listed["file"][3] == "list, line 4"
    write_manifest([row(images, "1")], str(out), dataset="ours")
    assert not Path(f"{out}.skipped.csv").exists()


def test_left_out_by_design_is_no_error(images, tmp_path):
    out = tmp_path / "pairs.parquet"
    mirrored = Rejected(pair="2", where="list", reason="mirrored", detail="", by_design=True)
    summary = write_manifest([row(images, "1"), mirrored], str(out), dataset="ours")
    assert summary.reasons() == {"mirrored": 1}


def test_nothing_left_is_an_error_and_keeps_the_earlier_manifest(images, tmp_path):
    out = tmp_path / "pairs.parquet"
    write_manifest([row(images, "1")], str(out), dataset="ours")
    with pytest.raises(ValueError, match=r"no pairs to write to .*; left out: 1 x missing image"):
        write_manifest([row(images, "2", "d.jpg")], str(out), dataset="ours", skip_errors=True)
    assert pd.read_parquet(out)["pair_id"].tolist() == ["1"]


def test_images_on_the_web_are_not_checked_but_counted(tmp_path):
    out = tmp_path / "pairs.parquet"
    summary = write_manifest([row("https://example.org", "1")], str(out), dataset="ours")
    assert summary.unchecked_images == 2


def test_any_file_system(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/manifest-test/a.jpg", b"")
    memory.pipe_file("/manifest-test/b.jpg", b"")
    try:
        rows = [row("memory://manifest-test", "1"), row("memory://manifest-test", "2", "d.jpg")]
        write_manifest(rows, "memory://manifest-test/pairs.parquet", dataset="ours", skip_errors=True)
        with memory.open("/manifest-test/pairs.parquet") as file:
            assert pd.read_parquet(file)["pair_id"].tolist() == ["1"]
        assert b"missing image" in memory.cat_file("/manifest-test/pairs.parquet.skipped.csv")
    finally:
        memory.rm("/manifest-test", recursive=True)
