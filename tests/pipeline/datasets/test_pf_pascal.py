from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from pipeline.datasets import pf_pascal
from pipeline.datasets.common.interface import PairRow, Rejected

TEST_HEADER = "source_image,target_image,class,XA,YA,XB,YB"
TRAIN_HEADER = "source_image,target_image,class,flip"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """a.jpg has the published size, b.jpg is twice as large; both are cats."""
    (tmp_path / "JPEGImages").mkdir()
    Image.new("RGB", (300, 200)).save(tmp_path / "JPEGImages" / "a.jpg")
    Image.new("RGB", (400, 600)).save(tmp_path / "JPEGImages" / "b.jpg")
    return tmp_path


def annotate(root: Path, name: str, kps: object, bbox: object = ((1, 2, 30, 40),)) -> None:
    folder = root / "Annotations" / "cat"
    folder.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(folder / f"{name}.mat", {"kps": kps, "bbox": np.array(bbox, float)})


def read(root: Path, **options: str) -> list[PairRow | Rejected]:
    return list(pf_pascal.pairs(pf_pascal.Options(root=str(root), out="pairs.parquet", **options)))


@pytest.mark.parametrize("name", ["test_pairs.csv", "test_pairs_pf_pascal.csv"])
def test_keypoints_of_the_list_are_scaled_to_the_images(root, name):
    (root / name).write_text(f"{TEST_HEADER}\nPF-dataset-PASCAL/JPEGImages/a.jpg,b.jpg,8,1;2,3;4,5;6,7.5;8\n")
    (row,) = read(root)
    assert row.pair_id == "0001-a-b:cat"
    assert (row.category, row.split) == ("cat", "test")
    assert row.source_uri == f"{root}/JPEGImages/a.jpg"
    assert row.source_xy_px == [(1, 3), (2, 4)]
    assert row.target_xy_px == [(10, 15), (12, 16)]
    assert (row.keypoint_id, row.source_box_xyxy, row.seen_in_training) == (None, None, None)


def test_boxes_come_from_the_annotations_and_are_scaled_too(root):
    (root / "test_pairs.csv").write_text(f"{TEST_HEADER}\na.jpg,b.jpg,8,1,2,3,4\n")
    annotate(root, "a", np.zeros((3, 2)))
    annotate(root, "b", np.zeros((3, 2)))
    (row,) = read(root)
    assert row.source_box_xyxy == (1, 2, 30, 40)
    assert row.target_box_xyxy == (2, 4, 60, 80)
    assert row.source_xy_px == [(1, 2)]


def test_a_listed_pair_needs_no_annotation(root):
    (root / "test_pairs.csv").write_text(f"{TEST_HEADER}\na.jpg,b.jpg,8,1,2,3,4\nb.jpg,c.jpg,8,1,2,3,4\n")
    Image.new("RGB", (300, 200)).save(root / "JPEGImages" / "c.jpg")
    annotate(root, "b", np.zeros((3, 2)))
    (root / "Annotations" / "cat" / "c.mat").write_bytes(b"\x00" * 200)
    missing, malformed = read(root)
    assert (missing.source_box_xyxy, missing.target_box_xyxy) == (None, (2, 4, 60, 80))
    assert (malformed.source_box_xyxy, malformed.target_box_xyxy) == ((2, 4, 60, 80), None)
    assert malformed.target_xy_px == [(3, 4)]


def test_smaller_images_are_not_scaled(root):
    (root / "test_pairs.csv").write_text(f"{TEST_HEADER}\na.jpg,b.jpg,8,1,2,3,4\n")
    Image.new("RGB", (150, 100)).save(root / "JPEGImages" / "a.jpg")
    (row,) = read(root)
    assert row.source_xy_px == [(1, 2)]


@pytest.mark.parametrize("name", ["trn_pairs.csv", "train_pairs.csv", "train_pairs_pf_pascal.csv"])
def test_training_keypoints_are_those_visible_in_both_images(root, name):
    (root / name).write_text(f"{TRAIN_HEADER}\na.jpg,b.jpg,8,0\na.jpg,b.jpg,8,1\n")
    annotate(root, "a", [[1, 2], [np.nan, np.nan], [5, 6], [7, 8]])
    annotate(root, "b", [[10, 20], [30, 40], [50, 60], [np.nan, np.nan]])
    row, mirrored = read(root, split="train")
    assert row.split == "trn"
    assert row.keypoint_id == ["1", "3"]
    assert row.source_xy_px == [(1, 2), (5, 6)]
    assert row.target_xy_px == [(20, 40), (100, 120)]
    assert mirrored.by_design
    assert mirrored.reason == "mirrored training row"


def test_pairs_of_the_training_list_are_flagged_whichever_way_round(root):
    for name in "cd":
        Image.new("RGB", (300, 200)).save(root / "JPEGImages" / f"{name}.jpg")
    rows = "".join(f"{pair},8,1,2,3,4\n" for pair in ("a.jpg,b.jpg", "b.jpg,a.jpg", "c.jpg,d.jpg", "a.jpg,c.jpg"))
    (root / "test_pairs.csv").write_text(f"{TEST_HEADER}\n{rows}")
    training_list = root / "list.csv"
    training_list.write_text(f"{TRAIN_HEADER}\nJPEGImages/b.jpg,JPEGImages/a.jpg,8,1\nd.jpg,b.jpg,8,0\n")
    seen = [row.seen_in_training for row in read(root, split="test", training_list=str(training_list))]
    assert seen == [True, True, False, False]


def test_twenty_classes_by_name(root):
    (root / "test_pairs.csv").write_text(
        f"{TEST_HEADER}\na.jpg,b.jpg,1,1,2,3,4\na.jpg,b.jpg,20,1,2,3,4\na.jpg,b.jpg,21,1,2,3,4\n"
    )
    first, last, rejected = read(root)
    assert (first.category, last.category) == ("aeroplane", "tvmonitor")
    assert rejected.detail == "field class: expected a number in 1..20, got 21"


def test_images_inside_pf_dataset_pascal(root):
    (root / "test_pairs.csv").write_text(f"{TEST_HEADER}\na.jpg,b.jpg,8,1,2,3,4\n")
    (root / "PF-dataset-PASCAL").mkdir()
    (root / "JPEGImages").rename(root / "PF-dataset-PASCAL" / "JPEGImages")
    (row,) = read(root)
    assert row.source_uri == f"{root}/PF-dataset-PASCAL/JPEGImages/a.jpg"


@pytest.mark.parametrize("lists", ["", "image_pairs", "PF-dataset-PASCAL"])
@pytest.mark.parametrize("images", ["", "PF-dataset-PASCAL"])
@pytest.mark.parametrize("root_is", ["whole", "lists", "images", "above"])
def test_the_layouts_of_its_downloads_under_every_root(tmp_path, lists, images, root_is):
    whole = tmp_path / "pf-pascal"
    for folder in (whole / lists, whole / images / "JPEGImages", whole / images / "Annotations" / "cat"):
        folder.mkdir(parents=True, exist_ok=True)
    for name in "ab":
        Image.new("RGB", (300, 200)).save(whole / images / "JPEGImages" / f"{name}.jpg")
        annotate(whole / images, name, np.zeros((3, 2)))
    (whole / lists / "test_pairs.csv").write_text(
        f"{TEST_HEADER}\nPF-dataset-PASCAL/JPEGImages/a.jpg,b.jpg,8,1,2,3,4\n"
    )
    root = {"whole": whole, "lists": whole / lists, "images": whole / images, "above": tmp_path}[root_is]
    (row,) = read(root)
    assert row.source_uri == str(whole / images / "JPEGImages" / "a.jpg")
    assert row.source_box_xyxy == (1, 2, 30, 40)


def test_another_data_set_beside_it_is_not_read(tmp_path):
    for name in ("mine", "pf-pascal"):
        (tmp_path / name / "JPEGImages").mkdir(parents=True)
    (tmp_path / "pf-pascal" / "test_pairs.csv").write_text(f"{TEST_HEADER}\n")
    with pytest.raises(FileNotFoundError, match=r"mine has no list of pairs such as test_pairs\.csv or"):
        read(tmp_path / "mine")


@pytest.mark.parametrize(
    ("row", "reason", "detail"),
    [
        ("a.jpg,b.jpg,8,1;2,3;4,5;6,7", "unequal keypoint lists", "XA has 2, YA has 2, XB has 2, YB has 1"),
        ("a.jpg,b.jpg,8,1;2,3;4,5;6,7;", "wrong type", "field YB: expected numbers separated by ';', got '7;'"),
        ("a.jpg,b.jpg,8,1;2,3;inf,5;6,7;8", "not finite", "field YA is '3;inf'"),
        ("a.jpg,b.jpg,8,1,,3,4", "missing field", "field YA: expected text, but it is absent or empty"),
        ("a.jpg,c.jpg,8,1,2,3,4", "missing image", "the list names it"),
        ("a.jpg,broken.jpg,8,1,2,3,4", "unreadable image", "cannot identify"),
    ],
)
def test_what_is_wrong_in_a_list(root, row, reason, detail):
    (root / "JPEGImages" / "broken.jpg").write_bytes(b"no image")
    (root / "test_pairs.csv").write_text(f"{TEST_HEADER}\n{row}\n")
    (rejected,) = read(root)
    assert rejected.reason == reason
    assert detail in rejected.detail


@pytest.mark.parametrize(
    ("kps", "bbox", "reason"),
    [
        (np.zeros((3, 3)), [[1, 2, 30, 40]], "wrong type"),
        (np.array([["a", "b"]]), [[1, 2, 30, 40]], "wrong type"),
        (np.full((1, 2), np.inf), [[1, 2, 30, 40]], "not finite"),
        (np.zeros((1, 2)), [[1, 2, 30]], "wrong type"),
    ],
)
def test_what_is_wrong_in_an_annotation(root, kps, bbox, reason):
    (root / "trn_pairs.csv").write_text(f"{TRAIN_HEADER}\na.jpg,b.jpg,8,0\n")
    annotate(root, "a", np.zeros((1, 2)))
    annotate(root, "b", kps, bbox)
    (rejected,) = read(root)
    assert rejected.where == f"{root}/Annotations/cat/b.mat"
    assert rejected.reason == reason


def test_annotations_that_are_missing_or_malformed(root):
    (root / "trn_pairs.csv").write_text(f"{TRAIN_HEADER}\na.jpg,b.jpg,8,0\n")
    assert [rejected.reason for rejected in read(root)] == ["missing annotation"]
    annotate(root, "a", np.zeros((1, 2)))
    assert [rejected.where for rejected in read(root)] == [f"{root}/Annotations/cat/b.mat"]
    (root / "Annotations" / "cat" / "b.mat").write_bytes(b"\x00" * 200)
    assert [rejected.reason for rejected in read(root)] == ["malformed .mat file"]


def test_splits_are_listed(root):
    with pytest.raises(FileNotFoundError, match="no list of pairs"):
        read(root)
    (root / "train_pairs.csv").write_text(TRAIN_HEADER)
    (root / "val_pairs.csv").write_text(TEST_HEADER)
    with pytest.raises(ValueError, match="no split 'test'; there are: trn, val"):
        read(root, split="test")
