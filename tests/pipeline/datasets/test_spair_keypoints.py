import pytest

from pipeline.datasets.spair_keypoints import geometry_groups, mirror_keypoint_ids

CATEGORIES = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "train",
    "tvmonitor",
]


@pytest.mark.parametrize("category", CATEGORIES)
def test_an_id_is_in_one_group_and_has_one_twin(category):
    groups, pairs = geometry_groups(category), mirror_keypoint_ids(category)
    grouped = [name for group in groups for name in group]
    paired = [name for pair in pairs for name in pair]
    for ids in (grouped, paired):
        assert len(set(ids)) == len(ids)
        assert set(ids) <= {str(number) for number in range(30)}
    assert all(len(group) > 1 for group in groups)


def test_ids_that_bus_does_not_use_are_in_no_group():
    used = {name for group in [*geometry_groups("bus"), *mirror_keypoint_ids("bus")] for name in group}
    assert not used & {"8", "9"}
    assert ["18", "19", "28", "29"] in geometry_groups("bus")
    assert ("20", "10") in mirror_keypoint_ids("bus")


def test_other_categories_have_none():
    assert geometry_groups("zebra") is None
    assert mirror_keypoint_ids("zebra") is None
