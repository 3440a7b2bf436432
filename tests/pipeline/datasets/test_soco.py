"""SOCO in its published layout, written by hand after its repository's page on the structure of the data set."""

import json
from pathlib import Path

import pytest

from pipeline.datasets.common.interface import PairRow, Rejected
from pipeline.datasets.soco import Options, pairs


def _point(name: str, x: float, y: float) -> dict:
    concept = name.rpartition(" ")[2]
    return {"id": 7, "name": name, "pos": [x, y], "concept_id": 1, "concept_name": concept, "shared": False}


PAIR = {
    "pair_id": 12,
    "pair_group": "car",
    "src_category": "car",
    "trg_category": "car",
    "src_image": "car_1.JPEG",
    "trg_image": "car_2.JPEG",
    "src_imsize": [100, 50],
    "trg_imsize": [80, 60],
    "src_bndbox": [1, 2, 90, 40],
    "trg_bndbox": None,
    "src_keypoints": [_point("front wheel", 10, 20), _point("rear wheel", 30, 20.5), _point("roof", 20, 5)],
    "trg_keypoints": [_point("rear wheel", 40, 21), _point("front wheel", 60, 22), _point("lamp", 70, 10)],
    "semantic_overlap": ["front wheel", "rear wheel"],
    "concept_matches": [
        {
            "concept_name": "wheel",
            "src_keypoints": ["rear wheel", "front wheel"],
            "trg_keypoints": ["front wheel", "rear wheel"],
        }
    ],
}


def write(root: Path, pair: object, part: str = "intra", group: str = "car", name: str = "00012") -> None:
    file = root / "PairAnnotations" / part / group / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(pair if isinstance(pair, str) else json.dumps(pair))


def read(root: Path, **options: str) -> list[PairRow | Rejected]:
    return list(pairs(Options(root=str(root), out="pairs.parquet", **options)))


def test_soc_pairs_points_of_the_same_name(tmp_path):
    write(tmp_path, PAIR)
    assert read(tmp_path) == [
        PairRow(
            where=f"{tmp_path}/PairAnnotations/intra/car/00012.json",
            pair_id="car/12",
            source_uri=f"{tmp_path}/Images/car/car_1.JPEG",
            target_uri=f"{tmp_path}/Images/car/car_2.JPEG",
            category="car",
            source_xy_px=[(10, 20), (30, 20.5)],
            target_xy_px=[(60, 22), (40, 21)],
            keypoint_id=["front wheel", "rear wheel"],
            source_all_xy_px=[(10, 20), (30, 20.5), (20, 5)],
            source_all_keypoint_id=["front wheel", "rear wheel", "roof"],
            target_all_xy_px=[(40, 21), (60, 22), (70, 10)],
            target_all_keypoint_id=["rear wheel", "front wheel", "lamp"],
            source_box_xyxy=(1, 2, 90, 40),
            target_box_xyxy=None,
            source_stated_wh=(100, 50),
            target_stated_wh=(80, 60),
        )
    ]


def test_cc_has_every_target_of_the_concept_and_the_first_of_them(tmp_path):
    write(tmp_path, PAIR)
    (row,) = read(tmp_path, pairs="cc")
    assert row.keypoint_id == ["front wheel", "rear wheel"]
    assert row.source_xy_px == [(10, 20), (30, 20.5)]
    assert row.target_valid_xy_px == [[(40, 21), (60, 22)]] * 2
    assert row.target_xy_px == [(40, 21), (40, 21)]


def test_cc_merges_the_groups_of_a_source_point(tmp_path):
    groups = [
        {"concept_name": "wheel", "src_keypoints": ["front wheel"], "trg_keypoints": ["front wheel"]},
        {"concept_name": "round", "src_keypoints": ["front wheel"], "trg_keypoints": ["lamp", "front wheel"]},
        {"concept_name": "roof", "src_keypoints": ["roof"], "trg_keypoints": []},
    ]
    write(tmp_path, PAIR | {"concept_matches": groups})
    (row,) = read(tmp_path, pairs="cc")
    assert row.keypoint_id == ["front wheel"]
    assert row.target_valid_xy_px == [[(60, 22), (70, 10)]]


def test_cross_has_two_categories_and_a_level(tmp_path):
    write(tmp_path, PAIR | {"src_category": "bus"}, "cross", "bus-car")
    write(tmp_path, PAIR)
    (row,) = read(tmp_path, pairs="cross")
    assert (row.pair_id, row.category, row.target_category, row.level) == (
        "bus-car/12",
        "bus",
        "car",
        "cross-category",
    )
    assert row.source_uri == f"{tmp_path}/Images/bus/car_1.JPEG"
    assert row.target_uri == f"{tmp_path}/Images/car/car_2.JPEG"


def test_a_category_that_is_stated_once(tmp_path):
    once = {name: value for name, value in PAIR.items() if not name.endswith("_category")}
    write(tmp_path, once | {"category": "car"})
    (row,) = read(tmp_path)
    assert (row.category, row.target_category) == ("car", None)


def test_pairs_come_by_group_and_file_and_the_same_id_in_two_groups_stays_two(tmp_path):
    for group, name in [("car", "00002"), ("bus", "00001"), ("car", "00001")]:
        write(tmp_path, PAIR | {"pair_id": int(name)}, group=group, name=name)
    assert [row.pair_id for row in read(tmp_path)] == ["bus/1", "car/1", "car/2"]


def test_splits_are_of_pairs_within_a_category(tmp_path):
    write(tmp_path, PAIR, "intra")
    write(tmp_path, PAIR | {"pair_id": 1}, "trainsplits/train")
    write(tmp_path, PAIR | {"pair_id": 2}, "trainsplits/test")
    assert [(row.pair_id, row.split) for row in read(tmp_path, split="test")] == [("car/2", "test")]
    assert [(row.pair_id, row.split) for row in read(tmp_path, split="train", pairs="cc")] == [("car/1", "train")]
    with pytest.raises(ValueError, match="across categories have no splits"):
        read(tmp_path, pairs="cross", split="test")


@pytest.mark.parametrize(("kind", "field"), [("soc", "semantic_overlap"), ("cc", "concept_matches")])
def test_a_pair_without_corresponding_points_is_left_out_by_design(tmp_path, kind, field):
    write(tmp_path, PAIR | {field: []})
    (rejected,) = read(tmp_path, pairs=kind)
    assert (rejected.pair, rejected.reason, rejected.by_design) == ("car/00012", "no corresponding points", True)


@pytest.mark.parametrize(
    ("change", "reason", "detail"),
    [
        ({"src_keypoints": None}, "missing field", "field src_keypoints: expected a list of records"),
        ({"src_keypoints": [3]}, "wrong type", "expected a record, got 3"),
        ({"trg_keypoints": [_point("a", 1, 2)] * 2}, "wrong value", "field name: 'a' was there before"),
        ({"trg_keypoints": [{"name": "a", "pos": [1]}]}, "wrong type", "field pos, point 0: expected [x, y], got [1]"),
        ({"trg_keypoints": [{"name": "a", "pos": [1, float("nan")]}]}, "not finite", "field pos, point 0"),
        ({"trg_keypoints": [{"name": "a"}]}, "missing field", "field pos: expected a point [x, y]"),
        ({"semantic_overlap": ["roof"]}, "wrong value", "'roof' is not among the pair's trg_keypoints"),
        ({"semantic_overlap": "roof"}, "wrong type", "field semantic_overlap: expected a list of text"),
        ({"src_bndbox": [9, 1, 9, 5]}, "wrong value", "field src_bndbox: expected a box"),
        ({"pair_id": 1.5}, "wrong type", "field pair_id: expected an id"),
        ({"src_image": 3}, "wrong type", "field src_image: expected text, got 3"),
        ({"src_category": None}, "missing field", "field category: expected text"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_field(tmp_path, change, reason, detail):
    write(tmp_path, PAIR | change)
    write(tmp_path, PAIR, name="00013")
    rejected, good = read(tmp_path)
    assert (rejected.pair, rejected.reason, rejected.by_design) == ("car/00012", reason, False)
    assert detail in rejected.detail
    assert isinstance(good, PairRow)


def test_an_unknown_name_in_a_concept(tmp_path):
    match = {"concept_name": "wheel", "src_keypoints": ["roof"], "trg_keypoints": ["door"]}
    write(tmp_path, PAIR | {"concept_matches": [match]})
    (rejected,) = read(tmp_path, pairs="cc")
    assert rejected.reason == "wrong value"
    assert "field trg_keypoints: 'door' is not among the pair's trg_keypoints" in rejected.detail


@pytest.mark.parametrize("text", ["{", "[1]", "null"])
def test_malformed_json_is_one_rejected_pair(tmp_path, text):
    write(tmp_path, text)
    assert [rejected.reason for rejected in read(tmp_path)] == ["malformed JSON"]


@pytest.mark.parametrize("start", [".", "SOCOv1", "SOCOv1/Images", "SOCOv1/PairAnnotations"])
def test_the_root_is_found_from_near_it(tmp_path, start):
    write(tmp_path / "SOCOv1", PAIR)
    (tmp_path / "SOCOv1" / "Images").mkdir()
    assert [row.pair_id for row in read(tmp_path / start)] == ["car/12"]


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="--root must be SOCOv1"):
        read(tmp_path)
    write(tmp_path, PAIR)
    with pytest.raises(FileNotFoundError, match=r"cross has no pairs"):
        read(tmp_path, pairs="cross")
