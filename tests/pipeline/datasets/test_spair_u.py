import json
from pathlib import Path

import pytest

from pipeline.datasets import spair_u
from pipeline.datasets.common.interface import DatasetOptions, Note, PairRow, Rejected

ANNOTATION = {
    "src_imname": "a.jpg",
    "trg_imname": "b.jpg",
    "category": "cat",
    "src_kps": [[1, 2]],
    "trg_kps": [[5, 6.5]],
    "kps_ids": ["1"],
    "src_bndbox": [1, 1, 10, 20],
    "trg_bndbox": [2, 3, 12, 13],
}


def write(root: Path, pair: str, annotation: dict | None = None, folder: str = "PairAnnotation") -> None:
    file = root / folder / "test" / f"{pair}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(ANNOTATION if annotation is None else annotation))


def write_layout(root: Path, *pairs: str) -> None:
    file = root / "Layout" / "large" / "test.txt"
    file.parent.mkdir(parents=True)
    file.write_text("".join(f"{pair}\n" for pair in pairs))


def read(root: Path) -> list[PairRow | Rejected | Note]:
    return list(spair_u.pairs(DatasetOptions(root=str(root), out="pairs.parquet")))


def test_pairs_of_the_layout_without_a_file_are_not_in_the_set_and_counted(tmp_path):
    write_layout(tmp_path, "3-c-a:cat", "2-a-c:cat", "1-a-b:cat", "4-x-y:cat")
    write(tmp_path, "1-a-b:cat")
    write(tmp_path, "3-c-a:cat")

    note, first, second = read(tmp_path)

    assert note == Note(where=f"{tmp_path}/Layout/large/test.txt", what=spair_u.ABSENT, count=2)
    assert [first.pair_id, second.pair_id] == ["3-c-a:cat", "1-a-b:cat"]
    assert (second.source_xy_px, second.target_xy_px, second.keypoint_id) == ([(1, 2)], [(5, 6.5)], ["1"])
    assert second.source_uri == f"{tmp_path}/JPEGImages/cat/a.jpg"
    assert (second.split, second.category) == ("test", "cat")
    assert second.geometry_groups is None


def test_without_a_layout_every_file_is_a_pair(tmp_path):
    write(tmp_path, "2-a-b:cat")
    write(tmp_path, "1-a-b:cat")
    assert [row.pair_id for row in read(tmp_path)] == ["1-a-b:cat", "2-a-b:cat"]


def test_files_that_the_layout_does_not_name_are_pairs_too(tmp_path):
    write_layout(tmp_path, "2-a-b:cat")
    write(tmp_path, "1-a-b:cat")
    write(tmp_path, "2-a-b-cat")
    assert [row.pair_id for row in read(tmp_path)] == ["2-a-b:cat", "1-a-b:cat"]


def test_inside_spair_71k_the_extra_folders_are_read(tmp_path):
    write(tmp_path, "1-a-b:cat", folder="ExtraPairAnnotation")
    write(tmp_path, "9-a-b:cat")
    image = tmp_path / "ExtraImageAnnotation" / "cat" / "a.json"
    image.parent.mkdir(parents=True)
    image.write_text(json.dumps({"kps": {"0": None, "1": [1, 2], "2": [3, 4]}}))

    (row,) = read(tmp_path)

    assert row.pair_id == "1-a-b:cat"
    assert row.source_all_keypoint_id == ["1", "2"]
    assert row.target_all_keypoint_id is None


def test_a_broken_pair_is_rejected_alone(tmp_path):
    write(tmp_path, "1-a-b:cat", ANNOTATION | {"kps_ids": ["1", "2"]})
    write(tmp_path, "2-a-b:cat")
    rejected, row = read(tmp_path)
    assert (rejected.pair, rejected.reason) == ("1-a-b:cat", "unequal keypoint lists")
    assert row.pair_id == "2-a-b:cat"


def test_a_folder_without_pairs_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no pairs: expected PairAnnotation/test/\*.json"):
        read(tmp_path)
