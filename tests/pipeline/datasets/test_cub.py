from pathlib import Path
from typing import Any

import pytest

from pipeline.datasets import cub
from pipeline.datasets.common.interface import PairRow, Rejected

FILES = {
    "images.txt": "1 001.Gull/a.jpg\n2 001.Gull/b.jpg\n3 002.Tern/c.jpg\n",
    "classes.txt": "1 001.Gull\n2 002.Tern\n",
    "image_class_labels.txt": "1 1\n2 1\n3 2\n",
    "train_test_split.txt": "1 1\n2 1\n3 0\n",
    "bounding_boxes.txt": "1 10.0 20.0 30.0 40.0\n2 1.0 2.0 3.0 4.0\n3 5.0 5.0 10.0 20.0\n",
    "parts/parts.txt": "1 back\n2 left eye\n3 right eye\n4 tail\n",
    "parts/part_locs.txt": (
        "1 1 11.0 21.0 1\n1 2 12.0 22.0 1\n1 3 13.0 23.0 1\n1 4 0.0 0.0 0\n"
        "2 1 1.0 2.0 1\n2 2 1.5 2.5 1\n2 3 2.0 3.0 1\n2 4 2.5 3.5 1\n"
        "3 1 6.0 6.0 1\n3 2 0.0 0.0 0\n3 3 7.0 7.0 1\n3 4 8.0 8.0 1\n"
    ),
}


def read(folder: Path, changes: dict[str, str] | None = None, **options: Any) -> list[Any]:
    root = folder / "CUB_200_2011"
    for name, text in (FILES | (changes or {})).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    if "list" in options:
        (folder / "pairs.txt").write_text(options["list"])
        options["list"] = str(folder / "pairs.txt")
    return list(cub.pairs(cub.Options(**{"root": str(root), "out": "pairs.parquet"} | options)))


def test_a_listed_pair_has_the_parts_that_both_images_show(tmp_path):
    (row,) = read(tmp_path, list="1 3\n")
    assert row.source_uri == f"{tmp_path}/CUB_200_2011/images/001.Gull/a.jpg"
    assert row.target_uri == f"{tmp_path}/CUB_200_2011/images/002.Tern/c.jpg"
    assert (row.category, row.target_category) == ("001.Gull", "002.Tern")
    assert row.keypoint_id == ["back", "right eye"]
    assert row.source_xy_px == [(11, 21), (13, 23)]
    assert row.target_xy_px == [(6, 6), (7, 7)]
    assert row.source_all_keypoint_id == ["back", "left eye", "right eye"]
    assert row.target_all_xy_px == [(6, 6), (7, 7), (8, 8)]
    assert row.source_box_xyxy == (10, 20, 40, 60)
    assert row.target_box_xyxy == (5, 5, 15, 25)
    assert row.mirror_keypoint_ids == [("left eye", "right eye")]
    assert row.pair_id == "00001-1-3:001.Gull"


def test_the_list_keeps_its_order_up_to_the_limit(tmp_path):
    rows = read(tmp_path, list="2 1\n2 1\n1 2\n", limit=2)
    assert [row.pair_id for row in rows] == ["00001-2-1:001.Gull", "00002-2-1:001.Gull"]
    assert rows[0].target_category is None


def test_pairs_are_drawn_within_a_class_or_across(tmp_path):
    rows = [item for item in read(tmp_path) if isinstance(item, PairRow)]
    assert [{row.source_uri[-5:], row.target_uri[-5:]} for row in rows] == [{"a.jpg", "b.jpg"}]
    assert rows == [item for item in read(tmp_path) if isinstance(item, PairRow)]
    across = [item for item in read(tmp_path, across=True) if isinstance(item, PairRow)]
    # Images 1 and 3 share two parts, which is too few to be drawn.
    assert len(across) == 2
    assert {row.category for row in across} <= {"001.Gull", "002.Tern"}


def test_a_split_keeps_pairs_of_its_images(tmp_path):
    kept, left_out = read(tmp_path, list="1 2\n1 3\n", split="train")
    assert kept.split == "train"
    assert (left_out.reason, left_out.by_design) == ("image of another split", True)
    assert [item.split for item in read(tmp_path, split="train") if isinstance(item, PairRow)] == ["train"]


@pytest.mark.parametrize(
    ("changes", "line", "reason", "detail"),
    [
        ({}, "1", "malformed line", "expected two ids of images, got 1 words"),
        ({}, "1 9", "unknown id", "no line that begins with it"),
        ({"bounding_boxes.txt": "1 1 1 0 4\n2 1 2 3 4\n"}, "1 2", "wrong value", "not empty"),
        (
            {"bounding_boxes.txt": "1 1 1 4\n2 1 2 3 4\n"},
            "1 2",
            "malformed line",
            "expected 4 words after the id, got 3",
        ),
        ({"bounding_boxes.txt": "1 1 1 x 4\n2 1 2 3 4\n"}, "1 2", "wrong type", "expected numbers"),
        ({"image_class_labels.txt": "1 7\n2 1\n"}, "1 2", "unknown id", "no line that begins with it"),
        ({"images.txt": "1 a.jpg\n1 b.jpg\n2 c.jpg\n"}, "1 2", "duplicate id", "expected one line, got 2"),
        ({"parts/part_locs.txt": "1 99 1 1 1\n"}, "1 2", "unknown part", "part 99 is not in parts.txt"),
        ({"parts/part_locs.txt": "1 1 1 1 1\n1 1 1 1 1\n"}, "1 2", "duplicate part", "part 1 was there before"),
        ({"parts/part_locs.txt": "1 1 1 1 2\n"}, "1 2", "wrong value", "expected visible as 0 or 1, got 2"),
        ({"parts/part_locs.txt": "1 1 nan 1 1\n"}, "1 2", "not finite", "point 0"),
    ],
)
def test_what_is_wrong_is_a_row_with_its_reason(tmp_path, changes, line, reason, detail):
    (rejected,) = read(tmp_path, changes, list=f"{line}\n")
    assert isinstance(rejected, Rejected)
    assert rejected.reason == reason
    assert detail in rejected.detail


def test_one_wrong_image_leaves_the_others(tmp_path):
    items = read(tmp_path, {"bounding_boxes.txt": "1 1 1 5 4\n2 1 2 3 4\n3 x\n"})
    assert [item.reason for item in items if isinstance(item, Rejected) and not item.by_design] == ["malformed line"]
    assert len([item for item in items if isinstance(item, PairRow)]) == 1


def test_options_that_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match="--across is for drawing"):
        read(tmp_path, list="1 2", across=True)
    with pytest.raises(ValueError, match="--limit is for --list"):
        read(tmp_path, limit=2)
    with pytest.raises(ValueError, match="no split 'val'; there are: test, train"):
        read(tmp_path, split="val")
    with pytest.raises(FileNotFoundError, match=r"has no images.txt"):
        list(cub.pairs(cub.Options(root=str(tmp_path / "none"), out="pairs.parquet")))
