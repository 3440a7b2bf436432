import json
from pathlib import Path

import pytest
from labelled import PROVENANCE, labelled_row, tables, write_images

from pipeline.datasets import coco
from pipeline.datasets.common.interface import PairRow
from pipeline.pseudo_labels.exports.coco import export_coco


def test_our_reader_makes_pairs_of_the_objects(tmp_path):
    a, b, c = write_images(tmp_path / "in", "a.jpg", "b.png", "c.jpg")
    rows = [
        labelled_row("one", a, b),
        labelled_row("two", c, b, keypoint_probability=[0.99, 0.5, 0.75]),
        labelled_row("three", a, c, category="dog", source_box_xyxy=None),
    ]
    out = tmp_path / "out"

    exported = export_coco(tables(*rows), str(out), provenance=PROVENANCE, named=True)

    assert exported.n_images == 3
    options = coco.Options(root=str(out / "images"), out="p.parquet", annotations=str(out / "annotations.json"))
    pairs = [item for item in coco.pairs(options) if isinstance(item, PairRow)]
    assert [pair.category for pair in pairs] == ["cat"] * 3 + ["dog"]
    dog = pairs[-1]
    assert {Path(dog.source_uri).read_bytes(), Path(dog.target_uri).read_bytes()} == {
        Path(a).read_bytes(),
        Path(c).read_bytes(),
    }
    assert {dog.source_box_xyxy, dog.target_box_xyxy} == {(0, 0, 32, 24), (2, 0, 30, 24)}


def test_one_annotation_for_an_object_with_its_most_probable_places(tmp_path):
    a, b, c = write_images(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg")
    rows = [
        labelled_row("one", a, b),
        labelled_row(
            "two",
            c,
            b,
            source_xy_px=[[5.0, 5.0], [6.0, 6.0]],
            target_xy_px=[[7.0, 7.0], [8.0, 8.0]],
            keypoint_id=["nose", "ear"],
            keypoint_probability=[0.96875, 0.5],
        ),
    ]

    export_coco(tables(*rows), str(tmp_path / "out"), provenance=PROVENANCE, named=True)

    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert content["categories"] == [
        {"id": 1, "name": "cat", "supercategory": "", "keypoints": ["ear", "nose", "tail"], "skeleton": []}
    ]
    assert [(image["width"], image["height"]) for image in content["images"]] == [(32, 24)] * 3
    assert len(content["annotations"]) == 3
    of_b = content["annotations"][1]
    assert of_b["keypoints"] == [10.5, 5.25, 2, 7.0, 7.0, 2, 1.0, 2.0, 2]
    assert of_b["keypoint_probability"] == [0.9375, 0.96875, 0.75]
    assert of_b["bbox"] == [2, 0, 28, 24]
    of_c = content["annotations"][2]
    assert (of_c["keypoints"], of_c["num_keypoints"]) == ([6, 6, 2, 5, 5, 2, 0, 0, 0], 2)


def test_two_objects_of_an_image_and_a_target_of_another_category(tmp_path):
    a, b = write_images(tmp_path / "in", "a.jpg", "b.jpg")
    rows = [
        labelled_row("one", a, b, target_category="dog"),
        labelled_row("two", a, b, source_box_xyxy=[1.0, 1.0, 5.0, 5.0], target_category="dog"),
    ]

    export_coco(tables(*rows), str(tmp_path / "out"), provenance=PROVENANCE, named=True)

    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    found = [(names[one["category_id"]], one["image_id"], one["bbox"]) for one in content["annotations"]]
    assert found == [("cat", 1, [0, 1, 31, 21]), ("dog", 2, [2, 0, 28, 24]), ("cat", 1, [1, 1, 4, 4])]


def test_points_without_names_are_refused(tmp_path):
    with pytest.raises(ValueError, match="COCO's form needs keypoints with names"):
        export_coco(tables(), str(tmp_path / "out"), provenance=PROVENANCE, named=False)


def test_an_image_that_is_gone_is_counted_and_nothing_else_is_left(tmp_path):
    a, b = write_images(tmp_path / "in", "a.jpg", "b.jpg")

    exported = export_coco(
        tables(labelled_row("one", a, b), labelled_row("two", a, str(tmp_path / "gone.jpg"))),
        str(tmp_path / "out"),
        provenance=PROVENANCE,
        named=True,
    )

    assert exported.left_out == {"not_found": 1}
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"README.md", "annotations.json", "images"}
    assert "the pairs that the labels came from are lost" in (tmp_path / "out" / "README.md").read_text()
