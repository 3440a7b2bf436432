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
    """The same annotations in the form that Animal-Pose is published in."""
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
    rejected, alone = read(tmp_path, published_animal_pose() | {"images": images})
    assert alone.reason == "category with objects in one image only, and a pair needs two"
    assert (rejected.where, rejected.detail) == (f"{tmp_path}/annotations.json, {place}", detail)


@pytest.mark.parametrize("name", ["images", "categories", "annotations"])
@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        ({"id": 1.5}, "wrong type", "field id: expected an id, which is a whole number or text, got 1.5"),
        ({"id": True}, "wrong type", "got True"),
        ({"id": float("nan")}, "wrong type", "got nan"),
        ({"id": float("inf")}, "wrong type", "got inf"),
        ({}, "missing field", "field id: expected an id, which is a whole number or text, but it is absent or empty"),
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
        ({"category_id": 7.5}, "wrong type", "field category_id: expected an id, which is a whole number or text"),
        ({"keypoints": [1, 2, 2]}, "unequal keypoint lists", "names has 4, keypoints has 1"),
        ({"keypoints": [1, 2, 2, 3]}, "wrong type", "field keypoints, point 0: expected [x, y, v], got 1"),
        ({"keypoints": [float("inf"), 2, 2] * 4}, "not finite", "field keypoints, point 0 is [inf, 2, 2]"),
        ({"bbox": [1, 2, 0, float("nan")]}, "wrong value", "field bbox: expected a box [x, y, width, height]"),
        ({"bbox": [1, 2, 3]}, "wrong type", "field bbox: expected a box [x, y, width, height]"),
        (
            {"keypoints": [1, 2, None] * 4},
            "wrong type",
            "field keypoints, point 0: expected [x, y, v], got [1, 2, None]",
        ),
        ({"id": 10}, "duplicate id", "field id: 10 was there before"),
    ],
)
def test_what_is_wrong_in_an_annotation(tmp_path, change, reason, detail):
    wrong = content()
    wrong["annotations"][1] |= change
    rejected, alone = read(tmp_path, wrong)
    assert alone.by_design
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


def test_a_file_that_is_not_there_is_named_with_where_it_was_looked_for():
    options = coco.Options(root="/images", out="pairs.parquet", annotations="/nowhere/c.json")
    with pytest.raises(
        FileNotFoundError, match=r"no file /nowhere/c\.json, and none of that name below --root /images"
    ):
        list(coco.pairs(options))


def test_the_file_must_be_named():
    with pytest.raises(ValueError, match="coco needs --annotations"):
        list(coco.pairs(coco.Options(root="/images", out="pairs.parquet")))


@pytest.mark.parametrize(
    "change",
    [
        {"file_name": "file:///data/a.jpg"},
        {"file_name": "", "coco_url": "file:///data/a.jpg"},
        {"file_name": "/data/a.jpg"},
    ],
)
def test_file_names_may_be_absolute_paths_and_uris(tmp_path, change):
    what = content()
    what["images"][0] |= change
    (row,) = read(tmp_path, what)
    (name,) = (name for name in change.values() if name)
    assert {row.source_uri, row.target_uri} == {name, "/images/data/b.jpg"}


@pytest.mark.parametrize(
    ("images", "referred"),
    [
        (["000000000012", "000000000013"], ["000000000012", "000000000013"]),
        ([1, 2], [1.0, 2.0]),
        ([1, 2], ["1", "2"]),
        (["6f1c-aa", "6f1c-ab"], ["6f1c-aa", "6f1c-ab"]),
    ],
)
def test_ids_are_whole_numbers_or_text(tmp_path, images, referred):
    what = content()
    for number in (0, 1):
        what["images"][number]["id"] = images[number]
        what["annotations"][number] |= {"image_id": referred[number], "id": f"annotation-{number}"}
    (row,) = read(tmp_path, what)
    assert row.pair_id in ("annotation-0-annotation-1:dog", "annotation-1-annotation-0:dog")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"keypoints": [0] * 12}, "annotation without a visible keypoint"),
        ({"keypoints": []}, "annotation without a visible keypoint"),
        ({"keypoints": None}, "annotation without a visible keypoint"),
        ({"keypoints": [0] * 12, "bbox": [1, 2, 0, 0]}, "annotation without a visible keypoint"),
        ({"keypoints": [0] * 12, "image_id": 99}, "annotation without a visible keypoint"),
        ({"keypoints": None, "category_id": 99}, "annotation without a visible keypoint"),
        ({"keypoints": [0] * 12, "iscrowd": 1}, "annotation without a visible keypoint"),
        ({"category_id": 8}, "annotation of a category without keypoints"),
        ({"bbox": [1, 2, 0, 4]}, "annotation without a box"),
        ({"bbox": []}, "annotation without a box"),
        ({"bbox": None}, "annotation without a box"),
    ],
)
def test_annotations_that_no_pair_can_use_are_left_out_by_design(tmp_path, change, reason):
    what = content()
    what["categories"].append({"id": 8, "name": "box"})
    what["annotations"].append(what["annotations"][0] | {"id": 12} | change)
    rejected, row = read(tmp_path, what)
    assert (rejected.reason, rejected.by_design) == (reason, True)
    assert isinstance(row, PairRow)


def test_a_file_without_boxes_gives_pairs_without_boxes(tmp_path):
    what = content()
    for annotation in what["annotations"]:
        del annotation["bbox"]
    (row,) = read(tmp_path, what)
    assert (row.source_box_xyxy, row.target_box_xyxy) == (None, None)


@pytest.mark.parametrize("hidden", [[float("nan"), float("nan"), 0], [None, None, 0], ["", "x", 0.0], [-1, 1e99, 0]])
def test_nothing_is_read_of_what_stands_behind_v_0(tmp_path, hidden):
    what = content()
    what["annotations"][0]["keypoints"][-3:] = hidden
    what["annotations"][1]["keypoints"][-1] = hidden
    (row,) = read(tmp_path, what)
    assert row.keypoint_id == ["nose", "left_eye", "tail"]


@pytest.mark.parametrize(
    ("stated", "size"), [({"width": 640, "height": 480.0}, (640, 480)), ({"width": 0, "height": 0}, None), ({}, None)]
)
def test_the_stated_size_of_an_image_goes_with_the_pair(tmp_path, stated, size):
    what = content()
    what["images"][0] |= stated
    (row,) = read(tmp_path, what)
    by_uri = {row.source_uri: row.source_stated_wh, row.target_uri: row.target_stated_wh}
    assert by_uri == {"/images/data/a.jpg": size, "/images/data/b.jpg": None}


def many(n_images: int) -> dict[str, Any]:
    """A file of many images, with one object in each."""
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(n_images)]
    annotations = [content()["annotations"][0] | {"id": number, "image_id": number} for number in range(n_images)]
    return content() | {"images": images, "annotations": annotations}


def test_the_parts_of_a_split_have_no_image_in_common(tmp_path):
    parts = {}
    for split in ("train", "val", "test"):
        rows = read(tmp_path, many(200), split=split)
        assert {row.split for row in rows} == {split}
        parts[split] = {uri for row in rows for uri in (row.source_uri, row.target_uri)}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 200
    assert [len(parts[split]) for split in ("train", "val", "test")] == [154, 27, 19]
    other = read(tmp_path, many(200), split="val", seed=5)
    assert {uri for row in other for uri in (row.source_uri, row.target_uri)} == parts["val"]
    other = read(tmp_path, many(200), split="val", split_seed=5)
    assert {uri for row in other for uri in (row.source_uri, row.target_uri)} != parts["val"]


def test_the_part_of_an_image_does_not_depend_on_where_it_is():
    names = [f"{number}.jpg" for number in range(50)]
    assert [coco.part_of(name, 0) for name in names] == [coco.part_of(f"s3://b/x/{name}", 0) for name in names]


def test_a_part_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of the 2 images is in --split val; with so few"):
        read(tmp_path, content(), split="val")
