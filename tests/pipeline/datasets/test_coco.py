import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets import coco
from pipeline.datasets.common.interface import PairRow, Rejected


def content() -> dict[str, Any]:
    return {
        "images": [{"id": 1, "file_name": "data/a.jpg"}, {"id": 2, "file_name": "data/b.jpg"}],
        "categories": [{"id": 7, "name": "dog", "keypoints": ["nose", "left_eye", "tail", "paw"]}],
        "annotations": [
            {
                "id": 10,
                "image_id": 1,
                "category_id": 7,
                "bbox": [1, 2, 30, 40],
                "keypoints": [1, 2, 2, 3, 4, 1, 5, 6, 2, 0, 0, 0],
            },
            {
                "id": 11,
                "image_id": 2,
                "category_id": 7,
                "bbox": [0, 0, 5.5, 6],
                "keypoints": [[11, 12, 2], [13, 14, 1], [15, 16, 2], [17, 18, 2]],
            },
        ],
    }


def read(folder: Path, what: object, **options: Any) -> list[PairRow | Rejected]:
    file = folder / "annotations.json"
    file.write_text(what if isinstance(what, str) else json.dumps(what))
    return list(coco.pairs(coco.Options(root="/images", out="pairs.parquet", annotations=str(file), **options)))


def test_two_instances_become_a_pair_of_their_visible_keypoints(tmp_path):
    (row,) = read(tmp_path, content())
    by_uri = {
        row.source_uri: (row.source_xy_px, row.source_box_xyxy),
        row.target_uri: (row.target_xy_px, row.target_box_xyxy),
    }
    assert by_uri["/images/data/a.jpg"] == ([(1, 2), (3, 4), (5, 6)], (1, 2, 31, 42))
    assert by_uri["/images/data/b.jpg"] == ([(11, 12), (13, 14), (15, 16)], (0, 0, 5.5, 6))
    assert row.keypoint_id == ["nose", "left_eye", "tail"]
    assert row.category == "dog"
    assert row.pair_id in ("10-11:dog", "11-10:dog")


def published_animal_pose() -> dict[str, Any]:
    """The same, in the form that Animal-Pose is published in."""
    boxes, points = ([1, 2, 31, 42], [0, 0, 5.5, 6]), [[1, 2, 1], [3, 4, 1], [5, 6, 1], [0, 0, 0]]
    annotations = [
        {"image_id": image_id, "category_id": 7, "bbox": box, "keypoints": points, "num_keypoints": 3}
        for image_id, box in enumerate(boxes, start=1)
    ]
    return content() | {"images": {"1": "2007_000063.jpg", "2": "2007_000175.jpg"}, "annotations": annotations}


def test_animal_pose_as_published(tmp_path):
    (row,) = read(tmp_path, published_animal_pose())
    assert row.pair_id in ("0-1:dog", "1-0:dog")
    assert {row.source_uri: row.source_box_xyxy, row.target_uri: row.target_box_xyxy} == {
        "/images/2007_000063.jpg": (1, 2, 31, 42),
        "/images/2007_000175.jpg": (0, 0, 5.5, 6),
    }
    assert row.source_xy_px == [(1, 2), (3, 4), (5, 6)]


@pytest.mark.parametrize(
    ("images", "place", "detail"),
    [
        ({"1": "a.jpg"}, "annotations[1]", "field image_id: there is no id 2"),
        ({"1": "a.jpg", "2": 3}, "images['2']", "field file_name: expected text, got 3"),
    ],
)
def test_what_is_wrong_in_animal_pose_as_published(tmp_path, images, place, detail):
    (rejected,) = read(tmp_path, published_animal_pose() | {"images": images})
    assert (rejected.where, rejected.detail) == (f"{tmp_path}/annotations.json, {place}", detail)


@pytest.mark.parametrize("name", ["images", "categories", "annotations"])
@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        ({"id": "1"}, "wrong type", "field id: expected a whole number, got '1'"),
        ({}, "missing field", "field id: expected a whole number, but it is absent or empty"),
        (None, "wrong type", "expected a record, got None"),
        ("first", "duplicate id", "was there before"),
    ],
)
def test_a_bad_record_is_left_out_and_the_others_stay(tmp_path, name, record, reason, detail):
    what = content()
    what[name].append(what[name][0] if record == "first" else record)
    rejected, row = read(tmp_path, what)
    assert rejected.where == f"{tmp_path}/annotations.json, {name}[{len(what[name]) - 1}]"
    assert rejected.reason == reason
    assert detail in rejected.detail
    assert isinstance(row, PairRow)


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"image_id": 3}, "wrong value", "field image_id: there is no id 3"),
        ({"category_id": "7"}, "wrong type", "field category_id: expected a whole number, got '7'"),
        ({"keypoints": [1, 2, 2]}, "unequal keypoint lists", "names has 4, keypoints has 1"),
        ({"keypoints": [1, 2, 2, 3]}, "wrong type", "field keypoints, point 0: expected [x, y, v], got 1"),
        ({"keypoints": [float("inf"), 2, 2] * 4}, "not finite", "field keypoints, point 0 is [inf, 2, 2]"),
        ({"bbox": [1, 2, 0, 4]}, "wrong value", "field bbox: expected a box [x, y, width, height]"),
        ({"id": 10}, "duplicate id", "field id: 10 was there before"),
    ],
)
def test_what_is_wrong_in_an_annotation(tmp_path, change, reason, detail):
    wrong = content()
    wrong["annotations"][1] |= change
    (rejected,) = read(tmp_path, wrong)
    assert rejected.where == f"{tmp_path}/annotations.json, annotations[1]"
    assert rejected.reason == reason
    assert detail in rejected.detail


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("{", "malformed JSON"),
        ([], "expected an object, got list"),
        (content() | {"images": "a.jpg"}, "field images: expected a list of records, got 'a.jpg'"),
        ({"images": []}, "field categories: expected a list of records, but it is absent or empty"),
    ],
)
def test_another_file_is_refused(tmp_path, what, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, what)


def test_the_file_must_be_named():
    with pytest.raises(ValueError, match="coco needs --annotations"):
        list(coco.pairs(coco.Options(root="/images", out="pairs.parquet")))
