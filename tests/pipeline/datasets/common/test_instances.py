import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pipeline.datasets.common.instances import Instance, SamplingOptions, sample_pairs
from pipeline.datasets.common.interface import Note, PairRow, Rejected


def options(pairs_per_category: int, seed: int = 0, **crowded: Any) -> SamplingOptions:
    return SamplingOptions(root=".", out="o.parquet", pairs_per_category=pairs_per_category, seed=seed, **crowded)


def instance(number: int, names: str = "abc", category: str = "cat", image: str | None = None) -> Instance:
    return Instance(
        id=f"{number:02d}",
        where="file.json",
        image_uri=image or f"{number}.jpg",
        category=category,
        xy_px={name: (float(number), float(place)) for place, name in enumerate(names)},
        box_xyxy=(0.0, 0.0, 10.0, 10.0),
    )


@pytest.mark.parametrize("count", [2, 3, 6, 7])
def test_every_pair_once_when_there_are_few(count):
    rows = list(sample_pairs([instance(number) for number in range(count)], options(1000)))
    pairs = [tuple(sorted(row.pair_id.split(":")[0].split("-"))) for row in rows]
    names = [f"{number:02d}" for number in range(count)]
    assert sorted(pairs) == list(itertools.combinations(names, 2))


def test_points_are_the_shared_ones_in_the_same_order():
    (row,) = sample_pairs([instance(1, "abcde"), instance(2, "xdcb")], options(10))
    assert sorted(row.keypoint_id) == ["b", "c", "d"]
    places = {1.0: "abcde", 2.0: "xdcb"}
    for points in (row.source_xy_px, row.target_xy_px):
        assert [places[x][int(y)] for x, y in points] == row.keypoint_id


def test_not_two_of_one_image_nor_of_two_categories_nor_with_two_shared_points():
    for instances in (
        [instance(1, image="a.jpg"), instance(2, image="a.jpg")],
        [instance(1), instance(2, category="dog")],
        [instance(1, "abc"), instance(2, "bcd")],
    ):
        assert not [item for item in sample_pairs(instances, options(10)) if isinstance(item, PairRow)]


def test_a_category_without_pairs_says_why():
    cat, cow, dog = sample_pairs(
        [instance(1), *(instance(n, "ab", "dog") for n in (2, 3)), *(instance(n, category="cow") for n in (4, 5))],
        options(9),
    )
    assert isinstance(cow, PairRow)
    assert (cat.pair, cat.by_design) == ("cat", True)
    assert cat.reason == "category with objects in one image only, and a pair needs two"
    assert dog.reason == "category whose objects share fewer than 3 visible keypoints"
    assert dog.detail == "2 objects in 2 images, with at most 2 visible keypoints each"


def test_images_with_several_objects_of_a_category_are_noted():
    crowd = [instance(number, image="a.jpg") for number in (1, 2)]
    other = [instance(3), instance(4, category="dog", image="a.jpg"), instance(5, category="dog")]
    (note,) = [item for item in sample_pairs([*crowd, *other], options(10)) if isinstance(item, Note)]
    assert note.what == "image with several objects of a category, each paired as if it were the only one"


def test_pairs_know_the_boxes_of_the_other_objects():
    boxes = {1: (0.0, 0.0, 10.0, 10.0), 2: (5.0, 5.0, 9.0, 9.0)}
    crowd = [replace(instance(number, image="a.jpg"), box_xyxy=box) for number, box in boxes.items()]
    rows = [row for row in sample_pairs([*crowd, instance(3)], options(10)) if isinstance(row, PairRow)]
    seen = {}
    for row in rows:
        ids = row.pair_id.split(":")[0].split("-")
        seen |= dict(zip(ids, (row.source_other_boxes_xyxy, row.target_other_boxes_xyxy), strict=True))
    assert seen == {"01": [boxes[2]], "02": [boxes[1]], "03": []}
    unknown = [replace(member, box_xyxy=None) for member in crowd]
    rows = [row for row in sample_pairs([*unknown, instance(3)], options(10)) if isinstance(row, PairRow)]
    assert all(None in (row.source_other_boxes_xyxy, row.target_other_boxes_xyxy) for row in rows)


def test_images_with_several_objects_of_a_category_can_be_left_out():
    crowd = [instance(number, image="a.jpg") for number in (1, 2)]
    items = list(sample_pairs([*crowd, instance(3), instance(4)], options(10, crowded="leave-out")))
    rejected, row = items
    assert isinstance(rejected, Rejected)
    assert (rejected.reason, rejected.by_design) == ("image with several objects of a category", True)
    assert isinstance(row, PairRow)
    assert sorted(row.pair_id.split(":")[0].split("-")) == ["03", "04"]
    (only,) = sample_pairs(crowd, options(10, crowded="leave-out"))
    assert isinstance(only, Rejected)


def test_the_sample_depends_on_the_seed_and_not_on_the_order():
    instances = [instance(number, category="cat" if number % 2 else "dog") for number in range(40)]
    rows = list(sample_pairs(instances, options(30, 5)))
    assert list(sample_pairs(reversed(instances), options(30, 5))) == rows
    assert list(sample_pairs(instances, options(30, 6))) != rows
    assert Counter(row.category for row in rows) == {"cat": 30, "dog": 30}
    assert len({row.pair_id for row in rows}) == 60


def test_instances_are_used_equally_often():
    rows = sample_pairs([instance(number) for number in range(20)], options(40))
    used = Counter(name for row in rows for name in row.pair_id.split(":")[0].split("-"))
    assert set(used.values()) == {4}


def test_no_pairs_is_refused():
    with pytest.raises(ValueError, match="--pairs-per-category must be at least 1, got 0"):
        list(sample_pairs([instance(1), instance(2)], options(0)))
