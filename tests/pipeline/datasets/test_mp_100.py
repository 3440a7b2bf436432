"""MP-100 as MARCO lays it out, written by hand after its page on data and COCO's form."""

import json
from pathlib import Path

import pytest

from pipeline.datasets.common.interface import Note, PairRow, Rejected
from pipeline.datasets.mp_100 import Options, pairs

A, B = "fox_face/a.jpg", "fox_face/b.jpg"
IMAGES = [
    {"id": 1, "file_name": A, "width": 100, "height": 200},
    {"id": 2, "file_name": B, "width": 100, "height": 400},
]
SOURCE = {
    "id": 10,
    "image_id": 1,
    "category_id": 5,
    "bbox": [0, 0, 40, 60],
    "num_keypoints": 3,
    "keypoints": [1, 2, 2, 3, 4, 1, 5, 6, 2],
}
TARGET = SOURCE | {"id": 11, "image_id": 2, "bbox": [10, 20, 30, 50], "keypoints": [11, 12, 2, 13, 14, 2, 15, 16, 1]}
PAIR = {"episode_idx": 0, "category_id": 5, "src_file": A, "trg_file": B}


def write(root: Path, *annotations: object, listed: object = (PAIR,), domain: str = "animal_face") -> None:
    for folder in ("pairs", "annotations"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "pairs" / f"pairs_{domain}.json").write_text(listed if isinstance(listed, str) else json.dumps(listed))
    for split in range(1, 6):
        write_split(root, split, [], [])
    write_split(root, 3, IMAGES, annotations)
    (root / "annotations" / "mp100_split1_train.json").write_text("is not read")


def write_split(root: Path, split: int, images: object, annotations: object) -> None:
    document = {
        "categories": [{"id": 5, "name": "fox_face"}],
        "images": images,
        "annotations": annotations,
    }
    (root / "annotations" / f"mp100_split{split}_test.json").write_text(json.dumps(document))


def items(root: Path, **options: str) -> list[PairRow | Rejected | Note]:
    return list(pairs(Options(root=str(root), out="pairs.parquet", **options)))


def read(root: Path, **options: str) -> list[PairRow | Rejected]:
    return [item for item in items(root, **options) if not isinstance(item, Note)]


def notes(root: Path, **options: str) -> list[str]:
    return [item.what for item in items(root, domain="animal_face", **options) if isinstance(item, Note)]


def test_a_listed_pair_becomes_a_row(tmp_path):
    write(tmp_path, SOURCE, TARGET)
    assert read(tmp_path) == [
        PairRow(
            where=f"{tmp_path}/pairs/pairs_animal_face.json, pair 0",
            pair_id="animal_face/0",
            source_uri=f"{tmp_path}/mp100/{A}",
            target_uri=f"{tmp_path}/mp100/{B}",
            category="fox_face",
            level="animal_face",
            split="test",
            source_xy_px=[(1, 2), (3, 4), (5, 6)],
            target_xy_px=[(11, 12), (13, 14), (15, 16)],
            keypoint_id=["0", "1", "2"],
            source_all_xy_px=[(1, 2), (3, 4), (5, 6)],
            source_all_keypoint_id=["0", "1", "2"],
            target_all_xy_px=[(11, 12), (13, 14), (15, 16)],
            target_all_keypoint_id=["0", "1", "2"],
            source_box_xyxy=(0, 0, 40, 60),
            target_box_xyxy=(10, 20, 40, 70),
            source_stated_wh=(100, 200),
            target_stated_wh=(100, 400),
        )
    ]
    assert notes(tmp_path) == []


# Keypoint 0 is visible in the source alone, keypoint 1 in the target alone, 2 in both.
UNEQUAL = (
    SOURCE | {"num_keypoints": 2, "keypoints": [1, 2, 2, 0, 0, 0, 5, 6, 2]},
    TARGET | {"num_keypoints": 2, "keypoints": [0, 0, 0, 13, 14, 2, 15, 16, 2]},
)


def test_where_visibility_differs_keypoints_are_paired_by_number(tmp_path):
    write(tmp_path, *UNEQUAL)
    (row,) = read(tmp_path)
    assert (row.keypoint_id, row.source_xy_px, row.target_xy_px) == (["2"], [(5, 6)], [(15, 16)])
    assert (row.source_all_keypoint_id, row.target_all_keypoint_id) == (["0", "2"], ["1", "2"])
    assert notes(tmp_path) == ["pair in which the published evaluator pairs different keypoints, as visibility differs"]


def test_the_published_rule_pairs_what_is_left_by_position(tmp_path):
    write(tmp_path, *UNEQUAL)
    (row,) = read(tmp_path, pairing_rule="published")
    assert row.source_xy_px == [(1, 2), (5, 6)]
    assert row.target_xy_px == [(13, 14), (15, 16)]
    assert row.keypoint_id == ["0", "1"]
    assert row.source_all_xy_px is None
    assert len(notes(tmp_path, pairing_rule="published")) == 1


def test_the_published_rule_stops_at_the_shorter_list(tmp_path):
    write(tmp_path, SOURCE, TARGET | {"keypoints": [11, 12, 2, 13, 14, 2, 0, 0, 0]})
    (row,) = read(tmp_path, pairing_rule="published")
    assert row.source_xy_px == [(1, 2), (3, 4)]
    assert notes(tmp_path) == []


def test_of_several_objects_the_first_of_the_category_counts_and_the_published_rule_joins_all(tmp_path):
    other = TARGET | {"category_id": 6, "num_keypoints": 1, "keypoints": [7, 7, 2]}
    second = TARGET | {"id": 12, "keypoints": [21, 22, 2, 23, 24, 2, 25, 26, 2]}
    write(tmp_path, SOURCE, other, TARGET, second)
    (row,) = read(tmp_path)
    assert row.target_xy_px == [(11, 12), (13, 14), (15, 16)]
    (published,) = read(tmp_path, pairing_rule="published")
    assert published.target_xy_px == [(7, 7), (11, 12), (13, 14)]
    assert len(notes(tmp_path)) == 1


def test_the_box_has_the_longest_side_of_all_objects_in_the_square(tmp_path):
    # B is 100 x 400: stretched to a square of side 1, 60 pixels of height are .15 and 30 of width are .3.
    tall = TARGET | {"id": 12, "bbox": [0, 0, 10, 60]}
    without = TARGET | {"id": 13, "bbox": [0, 0, 100, 400], "num_keypoints": 0}
    empty = TARGET | {"id": 14, "bbox": [0, 0, 0, 9]}
    write(tmp_path, SOURCE, tall, TARGET, without, empty, TARGET | {"id": 15, "bbox": []})
    assert read(tmp_path)[0].target_box_xyxy == (10, 20, 40, 70)


def test_annotations_of_a_file_come_from_every_test_split(tmp_path):
    write(tmp_path, SOURCE)
    write_split(tmp_path, 5, [IMAGES[1] | {"id": 1}], [TARGET | {"image_id": 1}])
    assert read(tmp_path)[0].target_xy_px == [(11, 12), (13, 14), (15, 16)]


def test_without_num_keypoints_the_keypoints_themselves_are_counted(tmp_path):
    source = {name: value for name, value in SOURCE.items() if name != "num_keypoints"}
    hidden = TARGET | {"keypoints": [0] * 9}
    write(tmp_path, source, hidden | {"num_keypoints": 0}, {**hidden, "num_keypoints": None}, TARGET)
    assert read(tmp_path)[0].target_xy_px == [(11, 12), (13, 14), (15, 16)]


def test_domains_come_by_name_and_those_without_a_list_are_noted(tmp_path):
    for domain in ("human_face", "animal_face"):
        write(tmp_path, SOURCE, TARGET, domain=domain)
    assert [row.pair_id for row in read(tmp_path)] == ["animal_face/0", "human_face/0"]
    assert [row.level for row in read(tmp_path, domain="human_face")] == ["human_face"]
    absent = [item.what for item in items(tmp_path) if isinstance(item, Note)]
    assert absent == [
        f"there is no pairs_{domain}.json: the domain is left out"
        for domain in ("animal_body_unseen", "clothing", "furniture")
    ]
    with pytest.raises(FileNotFoundError, match=r"no list pairs_clothing\.json"):
        read(tmp_path, domain="clothing")


def test_fewer_test_splits_than_published_are_noted(tmp_path):
    write(tmp_path, SOURCE, TARGET)
    (tmp_path / "annotations" / "mp100_split1_test.json").unlink()
    assert notes(tmp_path) == ["annotations of 4 test splits, where 5 are published"]


def test_a_category_without_a_name_goes_by_its_id(tmp_path):
    write(tmp_path, SOURCE | {"category_id": 9}, TARGET | {"category_id": 9}, listed=[PAIR | {"category_id": 9}])
    assert read(tmp_path)[0].category == "9"


def test_a_pair_without_a_shared_keypoint_is_left_out_by_design(tmp_path):
    write(tmp_path, SOURCE | {"keypoints": [1, 2, 2, 0, 0, 0]}, TARGET | {"keypoints": [0, 0, 0, 1, 2, 2]})
    (rejected,) = read(tmp_path)
    assert (rejected.pair, rejected.reason, rejected.by_design) == ("animal_face/0", "no corresponding points", True)


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"src_file": "fox_face/c.jpg"}, "missing annotation", "fox_face/c.jpg has no object in the annotations"),
        ({"trg_file": 3}, "wrong type", "field trg_file: expected text, got 3"),
        ({"category_id": None}, "missing field", "field category_id: expected an id"),
    ],
)
def test_what_is_wrong_in_a_list_is_named(tmp_path, change, reason, detail):
    write(tmp_path, SOURCE, TARGET, listed=[PAIR | change, PAIR])
    rejected, good = read(tmp_path)
    assert (rejected.pair, rejected.reason, rejected.by_design) == ("animal_face/0", reason, False)
    assert detail in rejected.detail
    assert good.pair_id == "animal_face/1"


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"keypoints": [1, 2]}, "field keypoints, point 0: expected [x, y, v], got 1"),
        ({"keypoints": [1, float("inf"), 2]}, "field keypoints, point 0 is [1, inf, 2]"),
        ({"num_keypoints": "3"}, "field num_keypoints: expected a whole number"),
        ({"bbox": [1, 2]}, "field bbox: expected a box"),
    ],
)
def test_a_malformed_object_rejects_the_pairs_of_its_image(tmp_path, change, detail):
    write(tmp_path, SOURCE, TARGET | change)
    (rejected,) = read(tmp_path)
    assert rejected.pair == "animal_face/0"
    assert rejected.where.endswith("mp100_split3_test.json, annotations[1]")
    assert detail in rejected.detail


def test_malformed_records_of_the_annotations_are_rejected_by_themselves(tmp_path):
    write(tmp_path, SOURCE, TARGET, TARGET | {"image_id": 99}, TARGET | {"category_id": None}, 3)
    write_split(tmp_path, 4, [{"id": 1}, 3], [])
    found = read(tmp_path)
    assert [item.reason for item in found if isinstance(item, Rejected)] == [
        "wrong value",
        "missing field",
        "wrong type",
        "missing field",
        "wrong type",
    ]
    assert [item.pair_id for item in found if isinstance(item, PairRow)] == ["animal_face/0"]


@pytest.mark.parametrize("text", ["{", '{"a": 1}'])
def test_a_list_that_is_none_is_an_error(tmp_path, text):
    write(tmp_path, SOURCE, TARGET, listed=text)
    with pytest.raises(ValueError, match=r"pairs_animal_face\.json: (malformed JSON|expected a list of pairs)"):
        read(tmp_path)


def test_a_record_of_the_list_that_is_no_record(tmp_path):
    write(tmp_path, SOURCE, TARGET, listed=[3, PAIR])
    rejected, good = read(tmp_path)
    assert (rejected.reason, good.pair_id) == ("wrong type", "animal_face/1")


@pytest.mark.parametrize("start", [".", "mp100_all", "mp100_all/mp100", "mp100_all/pairs"])
def test_the_root_is_found_from_near_it(tmp_path, start):
    write(tmp_path / "mp100_all", SOURCE, TARGET)
    (tmp_path / "mp100_all" / "mp100").mkdir()
    assert [row.pair_id for row in read(tmp_path / start)] == ["animal_face/0"]


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="--root must be mp100_all"):
        read(tmp_path)
    write(tmp_path, SOURCE, TARGET)
    for file in (tmp_path / "annotations").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match="no annotations of a test split"):
        read(tmp_path)
