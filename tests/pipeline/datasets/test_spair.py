import json
from pathlib import Path

import fsspec
import pytest

from pipeline.datasets import spair
from pipeline.datasets.common.interface import PairRow, Rejected, SplitOptions

ANNOTATION = {
    "src_imname": "a.jpg",
    "trg_imname": "b.jpg",
    "category": "cat",
    "src_kps": [[1, 2], [3, 4]],
    "trg_kps": [[5, 6], [7, 8.5]],
    "kps_ids": ["0", "4"],
    "src_bndbox": [1, 1, 10, 20],
    "trg_bndbox": [2, 3, 12, 13],
    "truncation": 3,
    "occlusion": 0,
}


def write(root: Path, pair: str, annotation: dict | str, split: str = "test") -> None:
    layout = root / "Layout" / "large" / f"{split}.txt"
    folder = root / "PairAnnotation" / split
    layout.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with layout.open("a") as file:
        file.write(f"{pair.replace('-cat', ':cat')}\n")
    text = annotation if isinstance(annotation, str) else json.dumps(annotation)
    (folder / f"{pair}.json").write_text(text)


def write_image(root: Path, name: str, annotation: dict | str, folder: str = "ImageAnnotation") -> None:
    file = root / folder / "cat" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(annotation if isinstance(annotation, str) else json.dumps(annotation))


def read(root: Path | str, **options: str) -> list[PairRow | Rejected]:
    return list(spair.pairs(SplitOptions(root=str(root), out="pairs.parquet", **options)))


def test_a_pair_becomes_a_row(tmp_path):
    write(tmp_path, "000001-a-b:cat", ANNOTATION | {"viewpoint_variation": 2})
    assert read(tmp_path) == [
        PairRow(
            where=f"{tmp_path}/PairAnnotation/test/000001-a-b:cat.json",
            pair_id="000001-a-b:cat",
            source_uri=f"{tmp_path}/JPEGImages/cat/a.jpg",
            target_uri=f"{tmp_path}/JPEGImages/cat/b.jpg",
            category="cat",
            split="test",
            source_xy_px=[(1.0, 2.0), (3.0, 4.0)],
            target_xy_px=[(5.0, 6.0), (7.0, 8.5)],
            keypoint_id=["0", "4"],
            source_box_xyxy=(1.0, 1.0, 10.0, 20.0),
            target_box_xyxy=(2.0, 3.0, 12.0, 13.0),
            viewpoint_variation=2,
            scale_variation=None,
            truncation=3,
            occlusion=0,
            mirror_keypoint_ids=[("1", "0"), ("3", "2"), ("5", "4"), ("7", "6"), ("10", "9"), ("12", "11")],
            geometry_groups=[["2", "3"], ["9", "10", "11", "12"]],
        )
    ]


@pytest.mark.parametrize(
    ("imsize", "size"),
    [([500, 375, 3], (500, 375)), ([500, 375], (500, 375)), ([500], None), ("500x375", None), (None, None)],
)
def test_the_stated_size_of_an_image_goes_with_the_pair(tmp_path, imsize, size):
    write(tmp_path, "000001-a-b:cat", ANNOTATION | {"src_imsize": imsize})
    (row,) = read(tmp_path)
    assert (row.source_stated_wh, row.target_stated_wh) == (size, None)


def test_file_names_with_a_dash_for_the_colon(tmp_path):
    write(tmp_path, "000001-a-b-cat", ANNOTATION)
    assert [row.pair_id for row in read(tmp_path)] == ["000001-a-b:cat"]


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"trg_kps": [[5, 6]]}, "unequal keypoint lists", "src_kps has 2, trg_kps has 1, kps_ids has 2"),
        ({"src_kps": [[1, 2], [float("nan"), 4]]}, "not finite", "field src_kps, point 1 is [nan, 4]"),
        ({"src_kps": [[1, 2], [3, 1e40]]}, "not finite", "field src_kps, point 1 is [3, 1e+40]"),
        ({"src_kps": [[1, 2], [3, "4"]]}, "wrong type", "field src_kps, point 1: expected [x, y], got [3, '4']"),
        ({"src_kps": None}, "missing field", "field src_kps: expected a list of points"),
        ({"src_bndbox": [1, 1, 10]}, "wrong type", "field src_bndbox: expected a box"),
        ({"src_bndbox": [9, 1, 9, 5]}, "wrong value", "not empty, got [9, 1, 9, 5]"),
        ({"category": 3}, "wrong type", "field category: expected text, got 3"),
        ({"category": "\ud800"}, "wrong value", "expected text that UTF-8 can hold, got '\\ud800'"),
        ({"kps_ids": ["0", "\ud800"]}, "wrong value", "field kps_ids: expected text that UTF-8 can hold"),
        ({"truncation": 4}, "wrong value", "field truncation: expected a level in 0..3, got 4"),
        ({"occlusion": True}, "wrong type", "field occlusion: expected a whole number, got True"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_field(tmp_path, change, reason, detail):
    write(tmp_path, "000001-a-b:cat", ANNOTATION | change)
    write(tmp_path, "000002-a-b:cat", ANNOTATION)
    rejected, good = read(tmp_path)
    assert rejected.pair == "000001-a-b:cat"
    assert rejected.where.endswith("PairAnnotation/test/000001-a-b:cat.json")
    assert rejected.reason == reason
    assert detail in rejected.detail
    assert good.pair_id == "000002-a-b:cat"


@pytest.mark.parametrize("text", ["{", "[1]", "\xff", "[" * 1000])
def test_malformed_json_is_one_rejected_pair(tmp_path, text):
    write(tmp_path, "000001-a-b:cat", text)
    assert [rejected.reason for rejected in read(tmp_path)] == ["malformed JSON"]


def test_an_annotation_that_the_layout_names_but_is_not_there(tmp_path):
    write(tmp_path, "000001-a-b:cat", ANNOTATION)
    (tmp_path / "PairAnnotation" / "test" / "000001-a-b:cat.json").unlink()
    assert [rejected.reason for rejected in read(tmp_path)] == ["missing annotation"]


def test_splits_are_listed_when_the_one_asked_for_is_not_there(tmp_path):
    for split in ("trn", "val"):
        write(tmp_path, "000001-a-b:cat", ANNOTATION, split)
    assert read(tmp_path, split="val")[0].split == "val"
    with pytest.raises(ValueError, match=r"no split 'test'; there are: trn, val"):
        read(tmp_path, split="test")
    with pytest.raises(ValueError, match=r"has the splits trn, val: say which with --split"):
        read(tmp_path)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Layout/large has no split"):
        read(tmp_path)


def test_a_layout_that_is_no_text(tmp_path):
    write(tmp_path, "000001-a-b:cat", ANNOTATION)
    (tmp_path / "Layout" / "large" / "test.txt").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"test\.txt: not a text file in UTF-8"):
        read(tmp_path)


def test_any_file_system(tmp_path):
    write(tmp_path, "000001-a-b:cat", ANNOTATION)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/spair-test", recursive=True)
    try:
        (row,) = read("memory://spair-test")
    finally:
        memory.rm("/spair-test", recursive=True)
    assert row.source_uri == "memory://spair-test/JPEGImages/cat/a.jpg"


def test_the_real_slice(shared):
    rows = read(shared / "data" / "SPair-71k", split="test")
    assert all(isinstance(row, PairRow) for row in rows)
    assert len(rows) == 3104
    assert sum(len(row.source_xy_px) for row in rows) == 24862
    assert {row.category for row in rows} == {"cat", "cow", "dog", "horse", "sheep"}
    assert len({uri for row in rows for uri in (row.source_uri, row.target_uri)}) == 128
    assert sum(row.viewpoint_variation is not None for row in rows) == 6


def test_all_keypoints_and_azimuths_come_from_the_images(tmp_path):
    write(tmp_path, "000001-a-b:cat", ANNOTATION)
    write_image(tmp_path, "a", {"azimuth_id": 1, "kps": {"0": [1, 2], "2": None, "4": [3, 4], "9": [0, 0.5]}})
    write_image(tmp_path, "b", {"azimuth_id": 7, "kps": {"0": [5, 6], "4": [7, 8.5]}})

    (pair,) = read(tmp_path)

    assert pair.source_all_xy_px == [(1, 2), (3, 4), (0, 0.5)]
    assert pair.source_all_keypoint_id == ["0", "4", "9"]
    assert pair.target_all_xy_px == [(5, 6), (7, 8.5)]
    assert pair.target_all_keypoint_id == ["0", "4"]
    assert pair.azimuth_difference == 2


@pytest.mark.parametrize(("first", "second", "difference"), [(0, 0, 0), (0, 4, 4), (0, 5, 3), (7, 2, 3), (6, 7, 1)])
def test_azimuths_are_on_a_circle(tmp_path, first, second, difference):
    write(tmp_path, "000001-a-b:cat", ANNOTATION)
    for name, azimuth in (("a", first), ("b", second)):
        write_image(tmp_path, name, {"azimuth_id": azimuth, "kps": {}})
    assert read(tmp_path)[0].azimuth_difference == difference


def test_an_image_without_annotation_leaves_its_columns_null(tmp_path):
    write(tmp_path, "000001-a-b:cat", ANNOTATION)
    write_image(tmp_path, "a", {"azimuth_id": 1, "kps": {"0": [1, 2]}})

    (pair,) = read(tmp_path)

    assert pair.source_all_keypoint_id == ["0"]
    assert (pair.target_all_xy_px, pair.target_all_keypoint_id, pair.azimuth_difference) == (None, None, None)


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ("{", "malformed JSON"),
        ("[]", "malformed JSON"),
        ({"kps": [[1, 2]]}, "wrong type"),
        ({"kps": {"0": [1]}}, "wrong type"),
        ({"kps": {}, "azimuth_id": 8}, "wrong value"),
    ],
)
def test_a_broken_image_annotation_rejects_its_pairs(tmp_path, annotation, reason):
    write(tmp_path, "000001-a-b:cat", ANNOTATION)
    write_image(tmp_path, "b", annotation)

    (rejected,) = read(tmp_path)

    assert isinstance(rejected, Rejected)
    assert (rejected.reason, rejected.where.rpartition("/")[2].partition(",")[0]) == (reason, "b.json")


def test_all_points_agree_with_the_pairs_of_the_real_slice(shared):
    rows = read(shared / "data" / "SPair-71k", split="test")
    assert len(rows) == 3104
    for row in rows:
        for side in ("source", "target"):
            ids, points = getattr(row, f"{side}_all_keypoint_id"), getattr(row, f"{side}_all_xy_px")
            of_id = dict(zip(ids, points, strict=True))
            assert [of_id[name] for name in row.keypoint_id] == getattr(row, f"{side}_xy_px")
        assert row.azimuth_difference in range(5)
