import hashlib
import json
import random
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import ap_10k
from pipeline.datasets.ap_10k_animals import KEYPOINTS
from pipeline.datasets.ap_10k_geoaware import halved_xy_px
from pipeline.datasets.common.interface import Note, PairRow, Rejected

CATEGORIES = [("Bovidae", "cow"), ("Bovidae", "bison"), ("Felidae", "cat")]
WH = (400, 200)


def keypoints(*, occluded: tuple[int, ...] = (), absent: tuple[int, ...] = (), shift: int = 0) -> list[float]:
    """Point k at (100 + 10 k + shift, 50 + k), all visible but for those named."""
    flat: list[float] = []
    for k in range(17):
        flat += [0, 0, 0] if k in absent else [100 + 10 * k + shift, 50 + k, 1 if k in occluded else 2]
    return flat


def animal(image_id: int, category: int, points: list[float] | None = None, **fields: Any) -> dict[str, Any]:
    points = keypoints() if points is None else points
    return {
        "id": 1000 + image_id,
        "image_id": image_id,
        "category_id": category,
        "bbox": [90, 40, 200, 60],
        "keypoints": points,
        "num_keypoints": 17,
        "iscrowd": 0,
    } | fields


def root_with(folder: Path, annotations: list[dict[str, Any]], shuffle: int = 0) -> Path:
    """AP-10K as published, its annotations dealt to the three parts in an order that `shuffle` seeds."""
    records = list(annotations)
    random.Random(shuffle).shuffle(records)
    categories = [
        {"id": n, "name": name, "supercategory": family, "keypoints": list(KEYPOINTS)}
        for n, (family, name) in enumerate(CATEGORIES)
    ]
    root = folder / f"ap-10k-{shuffle}"
    (root / "annotations").mkdir(parents=True)
    (root / "data").mkdir()
    where = {image_id: n % 3 for n, image_id in enumerate(dict.fromkeys(record["image_id"] for record in records))}
    for part, name in enumerate(("train", "val", "test")):
        of_part = [record for record in records if where[record["image_id"]] == part]
        ids = dict.fromkeys(record["image_id"] for record in of_part)
        images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": WH[0], "height": WH[1]} for n in ids]
        content = {"images": images, "annotations": of_part, "categories": categories}
        (root / "annotations" / f"ap10k-{name}-split1.json").write_text(json.dumps(content))
    return root


def read(root: Path, **options: Any) -> list[PairRow | Rejected | Note]:
    return list(ap_10k.pairs(ap_10k.Options(root=str(root), out=str(root / "pairs.parquet"), **options)))


def rows_of(items: list[PairRow | Rejected | Note]) -> list[PairRow]:
    return [item for item in items if isinstance(item, PairRow)]


def note_of(items: list[PairRow | Rejected | Note]) -> str:
    (note,) = [item.what for item in items if isinstance(item, Note)]
    return note


def miniature() -> list[dict[str, Any]]:
    """60 cows, 35 bison and 4 cats."""
    return [animal(n, 0 if n < 60 else 1 if n < 95 else 2) for n in range(99)]


SMALL = [animal(1, 0), animal(2, 0), animal(3, 1), animal(4, 2)]
"""Two cows, a bison and a cat."""


def test_a_pair_of_each_level(tmp_path):
    rows = rows_of(read(root_with(tmp_path, SMALL), split="test"))

    assert {
        (row.level, frozenset(row.pair_id.partition(":")[0].split("-")), row.pair_id.partition(":")[2]) for row in rows
    } == {
        ("intra-species", frozenset("12"), "cow"),
        ("cross-species", frozenset("13"), "Bovidae"),
        ("cross-species", frozenset("23"), "Bovidae"),
        ("cross-family", frozenset("14"), "all"),
        ("cross-family", frozenset("24"), "all"),
        ("cross-family", frozenset("34"), "all"),
    }
    species = {"1": "cow", "2": "cow", "3": "bison", "4": "cat"}
    for row in rows:
        source, target = row.pair_id.partition(":")[0].split("-")
        assert row.category == species[source]
        assert row.target_category == (None if row.level == "intra-species" else species[target])
        assert (row.split, row.dataset, row.seen_in_training) == ("test", None, None)
        assert row.source_uri.endswith(f"/data/{int(source):012d}.jpg")
        assert row.source_box_xyxy == (90, 40, 290, 100)
        assert row.target_stated_wh == WH


def test_groups_and_mirror_images_are_ids_of_keypoints(tmp_path):
    row = rows_of(read(root_with(tmp_path, SMALL), split="test"))[0]

    assert row.keypoint_id == list(KEYPOINTS)
    assert row.geometry_groups == [
        ["left_shoulder", "right_shoulder"],
        ["left_elbow", "right_elbow", "left_knee", "right_knee"],
        ["left_front_paw", "right_front_paw", "left_back_paw", "right_back_paw"],
        ["left_hip", "right_hip"],
    ]
    assert row.mirror_keypoint_ids is not None
    assert len(row.mirror_keypoint_ids) == 7
    assert all(ids[0].replace("left_", "right_") == ids[1] for ids in row.mirror_keypoint_ids)
    assert {name for ids in row.mirror_keypoint_ids for name in ids} <= set(KEYPOINTS)


def test_points_that_one_image_lacks_are_only_among_all_points(tmp_path):
    first, second = animal(1, 0, keypoints(absent=(0, 1))), animal(2, 0, keypoints(absent=(16,), occluded=(3,)))
    (row,) = rows_of(read(root_with(tmp_path, [first, second]), split="test"))
    of_image = {
        row.source_uri[-5:-4]: (row.source_visibility, row.source_all_keypoint_id, row.source_all_xy_px),
        row.target_uri[-5:-4]: (row.target_visibility, row.target_all_keypoint_id, row.target_all_xy_px),
    }

    assert row.keypoint_id == list(KEYPOINTS[2:16])
    assert of_image["1"][0] == [2] * 14
    assert of_image["2"][0] == [2, 1, *[2] * 12]
    assert of_image["1"][1] == list(KEYPOINTS[2:])
    assert of_image["2"][1] == list(KEYPOINTS[:16])
    assert of_image["1"][2] == [(100 + 10 * k, 50 + k) for k in range(2, 17)]


def geoaware_loop(flat: list[float], wh: tuple[int, int]) -> np.ndarray:
    """(17, 2) points that GeoAware-SC scores, in its padded square of 840 pixels, written from its description."""
    points = np.array(flat, dtype=float).reshape(17, 3)
    width, height = wh
    padded = points[:, :2] * 840 / max(wh)
    if height < width:
        padded[:, 1] += (840 - int(np.around(840 * height / width))) // 2
    elif width < height:
        padded[:, 0] += (840 - int(np.around(840 * width / height))) // 2
    return padded * points[:, 2:] / 2


@pytest.mark.parametrize("wh", [(400, 200), (333, 501), (640, 640), (1000, 667)])
def test_halved_points_are_those_that_geoaware_scores(wh):
    flat = keypoints(occluded=tuple(range(17)))
    scored = geoaware_loop(flat, wh)
    scale = 840 / max(wh)
    offset = np.array([(840 - int(np.around(840 * side / max(wh)))) // 2 for side in wh])
    halved = [halved_xy_px(x, y, wh) for x, y in zip(flat[::3], flat[1::3], strict=True)]

    np.testing.assert_allclose(np.array(halved) * scale + offset, scored, atol=1e-9)


def test_halving_moves_occluded_points_of_both_images_and_leaves_what_is_labelled(tmp_path):
    occluded = [animal(1, 0, keypoints(occluded=(0,))), animal(2, 0, keypoints(occluded=(1,), shift=7))]
    root = root_with(tmp_path, occluded)
    (labelled,) = rows_of(read(root, split="test"))
    (halved,) = rows_of(read(root, split="test", occluded="halved"))

    assert labelled.dataset is None
    assert halved.dataset == "ap-10k-halved"
    assert halved.source_all_xy_px == labelled.source_all_xy_px == labelled.source_xy_px
    assert halved.target_all_xy_px == labelled.target_all_xy_px
    for side in ("source", "target"):
        before, after = getattr(labelled, f"{side}_xy_px"), getattr(halved, f"{side}_xy_px")
        moved = getattr(labelled, f"{side}_visibility").index(1)
        assert [k for k in range(17) if before[k] != after[k]] == [moved]
        # 400 x 200 in a square: 2.1 times as large, 210 px of padding above
        x, y = before[moved]
        assert after[moved] == pytest.approx((x / 2, (y * 2.1 + 210) / 2 / 2.1 - 100))


def test_dropped_occluded_points_and_pairs_that_have_too_few_others(tmp_path):
    visible, hidden = animal(1, 0), animal(2, 0, keypoints(occluded=(4, 5)))
    mostly_hidden = animal(3, 0, keypoints(occluded=tuple(range(15))))
    root = root_with(tmp_path, [visible, hidden, mostly_hidden])
    items = read(root, split="test", occluded="dropped")
    (row,) = rows_of(items)
    left_out = [item for item in items if isinstance(item, Rejected)]

    assert row.dataset == "ap-10k-dropped"
    assert row.keypoint_id == [name for k, name in enumerate(KEYPOINTS) if k not in (4, 5)]
    assert len(row.source_all_xy_px or []) == 17
    assert [(item.reason, item.by_design) for item in left_out] == [
        ("pair that shares fewer than 3 keypoints", True)
    ] * 2
    assert len(rows_of(read(root, split="test"))) == 3


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ([animal(9, 0), animal(9, 0) | {"id": 5}], "image with several animals"),
        ([animal(9, 0), animal(9, 2) | {"id": 5}], "image with several animals"),
        ([animal(9, 0, iscrowd=1)], "annotation of a crowd"),
        ([animal(9, 0, keypoints(absent=tuple(range(2, 17))))], "image with fewer than 3 keypoints"),
        ([animal(9, 0, bbox=[1, 2, 0, 5])], "annotation without a box"),
    ],
)
def test_images_that_no_list_uses(tmp_path, wrong, reason):
    """num_keypoints says 17 in all of them and is not believed."""
    items = read(root_with(tmp_path, SMALL + wrong), split="test")

    assert (reason, True) in [(item.reason, item.by_design) for item in items if isinstance(item, Rejected)]
    assert "9" not in {part for row in rows_of(items) for part in row.pair_id.partition(":")[0].split("-")}
    assert len(rows_of(items)) == 6


@pytest.mark.parametrize(
    ("wrong", "detail"),
    [
        (animal(9, 0, keypoints()[:-3]), "expected 17 points"),
        (animal(9, 0, [*keypoints()[:-1], 3]), "v 0, 1 or 2"),
        (animal(9, 8), "there is no id 8"),
        (animal(9, 0, bbox="none"), "field bbox"),
    ],
)
def test_wrong_annotations_are_named(tmp_path, wrong, detail):
    items = read(root_with(tmp_path, [*SMALL, wrong]), split="test")
    (rejected,) = [item for item in items if isinstance(item, Rejected) and not item.by_design]

    assert "annotations[" in rejected.where
    assert detail in rejected.detail


def test_the_rule_against_a_plain_loop(tmp_path):
    """Splits, number of pairs and choice, with the hashes written out again."""

    def digest(*ids: int) -> bytes:
        return hashlib.sha256(":".join(["ap-10k list 1", *sorted(map(str, ids))]).encode()).digest()

    root = root_with(tmp_path, miniature())
    cows, bison, cats = (sorted(ids, key=digest) for ids in (range(60), range(60, 95), range(95, 99)))
    expected = {
        ("test", "intra-species"): [p for s in (bison, cows, cats) for p in combinations(s[:30], 2)],
        ("test", "cross-species"): sorted([(a, b) for a in cows[:30] for b in bison[:30]], key=lambda p: digest(*p)),
        ("test", "cross-family"): sorted(
            [(a, b) for a in cows[:30] + bison[:30] for b in cats], key=lambda p: digest(*p)
        )[:30],
        ("val", "intra-species"): [p for s in (cows, bison) for p in combinations(s[30:50], 2)],
        ("val", "cross-species"): [(a, b) for a in cows[30:50] for b in bison[30:50]],
        ("val", "cross-family"): [],
        ("train", "intra-species"): list(combinations(cows[50:], 2)),
    }
    for (split, level), wanted in expected.items():
        rows = rows_of(read(root, split=split, level=level))
        ids = [tuple(map(int, row.pair_id.partition(":")[0].split("-"))) for row in rows]
        assert {frozenset(pair) for pair in ids} == set(map(frozenset, wanted))
        assert len(ids) == len(wanted)
        assert ids == [pair if digest(*pair)[-1] % 2 == (str(pair[0]) > str(pair[1])) else pair[::-1] for pair in ids]
    assert len(expected["test", "cross-species"]) == 900


def test_a_species_has_at_most_fifty_training_pairs_for_each_image(tmp_path):
    """Of 202 cows 152 are for training, with 11,476 combinations."""
    root = root_with(tmp_path, [animal(n, 0) for n in range(202)])

    assert len(rows_of(read(root, split="train"))) == 50 * 152


def test_species_without_training_pairs_are_left_out_and_counted(tmp_path):
    items = read(root_with(tmp_path, miniature()), split="train")
    left_out = {item.pair: item for item in items if isinstance(item, Rejected)}

    assert set(left_out) == {"bison", "cat"}
    assert {item.reason for item in left_out.values()} == {"unit of intra-species without a pair in train"}
    assert all(item.by_design for item in left_out.values())
    with pytest.raises(ValueError, match="split train of ap-10k has no --level cross-family; only intra-species"):
        read(tmp_path / "ap-10k-0", split="train", level="cross-family")


PINNED = {
    "train": "9b218b09450a3feb1fb8c636502de03915b725f96687dfa7cb01f49d74e3ed4a",
    "val": "2687b94b42d8ed0b39f14e0dde96bcda7228e2bd26d641aa4e37e2dae3eb14c6",
    "test": "74d200fd4779d3317bb2201614e957dbe4d53535628ff1a46ed13a89f6fd382b",
}
"""The lists of the miniature set; they change with the rule, and then _SEED must too."""


@pytest.mark.parametrize("split", PINNED)
@pytest.mark.parametrize("shuffle", [1, 2])
def test_the_list_is_pinned_and_no_order_of_files_or_records_changes_it(tmp_path, split, shuffle):
    items = read(root_with(tmp_path, miniature(), shuffle), split=split)

    assert note_of(items) == f"list of {len(rows_of(items)):,} pairs, SHA-256 {PINNED[split]}"


def test_a_list_that_is_written_is_read_again(tmp_path):
    root, file = root_with(tmp_path, miniature()), str(tmp_path / "list.parquet")
    items = read(root, split="test", write_list=file)

    assert pq.read_table(file).column_names == ["source_image_id", "target_image_id", "level", "split"]
    again = read(root, list=file)
    assert note_of(again) == note_of(items)
    assert [row.pair_id for row in rows_of(again)] == [row.pair_id for row in rows_of(items)]
    assert {row.level for row in rows_of(read(root, list=file, level="cross-family"))} == {"cross-family"}
    with pytest.raises(ValueError, match="has no split 'val'; there are: test"):
        read(root, list=file, split="val")
    with pytest.raises(ValueError, match="is also an input"):
        read(root, list=file, write_list=file)


def test_wrong_rows_of_a_list(tmp_path):
    root, file = root_with(tmp_path, SMALL), tmp_path / "list.parquet"
    table = pa.table(
        {
            "source_image_id": [1, 1, 1, 1, 2],
            "target_image_id": [2, 8, 3, 1, 3],
            "level": ["intra-species", "intra-species", "intra-species", "intra-species", "near"],
            "split": ["test"] * 5,
        }
    )
    pq.write_table(table, file)
    items = read(root, list=str(file))
    rejected = {item.where.rpartition(" ")[2]: item.detail for item in items if isinstance(item, Rejected)}

    assert [row.pair_id for row in rows_of(items)] == ["1-2:cow"]
    assert "there is no image 8" in rejected["2"]
    assert "cow (Bovidae) and bison (Bovidae) are cross-species" in rejected["3"]
    assert "expected a pair of two images" in rejected["4"]
    assert "field level: expected intra-species, cross-species, cross-family, got 'near'" in rejected["5"]


def test_images_seen_in_training_are_marked(tmp_path):
    root = root_with(tmp_path, SMALL)
    for n in range(1, 5):
        (root / "data" / f"{n:012d}.jpg").write_bytes(b"image %d" % n)
    folder = tmp_path / "training"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "other-name.jpg").write_bytes(b"image 4")
    (folder / "below" / "re-encoded.jpg").write_bytes(b"image 1, encoded again")
    table = tmp_path / "train.parquet"
    pq.write_table(pa.table({"image": [{"bytes": b"image 3", "path": "x"}]}), table)

    def seen(*uris: Path) -> set[str]:
        rows = rows_of(read(root, split="test", training_images=tuple(map(str, uris))))
        assert all(row.seen_in_training is not None for row in rows)
        return {"".join(sorted(row.pair_id.partition(":")[0].split("-"))) for row in rows if row.seen_in_training}

    assert seen(folder) == {"14", "24", "34"}
    assert seen(folder, table) == {"14", "24", "34", "13", "23"}
    with pytest.raises(FileNotFoundError, match="has no image"):
        seen(tmp_path / "nothing")


def geoaware_root(folder: Path) -> Path:
    """Two cows and a cat in GeoAware-SC's layout, with an intra-species and a cross-family pair."""
    root = folder / "geoaware"
    paths = {1: "Bovidae/cow", 2: "Bovidae/cow", 4: "Felidae/cat"}
    for image_id, path in paths.items():
        record = animal(image_id, 0, keypoints(occluded=(0,))) | {"id": image_id, "width": WH[0], "height": WH[1]}
        (root / "ImageAnnotation" / path).mkdir(parents=True, exist_ok=True)
        (root / "ImageAnnotation" / path / f"{image_id:012d}.json").write_text(json.dumps(record))
    for name, source, target, unit in (("test", 2, 1, "cow"), ("test_cross_family", 4, 2, "all")):
        (root / "PairAnnotation" / name).mkdir(parents=True)
        files = [f"data/ap-10k/ImageAnnotation/{paths[n]}/{n:012d}.json" for n in (source, target)]
        content = json.dumps({"src_json_path": files[0], "trg_json_path": files[1]})
        (root / "PairAnnotation" / name / f"{source:012d}-{target:012d}:{unit}.json").write_text(content)
    return root


def test_lists_of_geoaware_are_read_as_they_are(tmp_path):
    root = geoaware_root(tmp_path)
    first, second = rows_of(read(root, split="test"))

    assert (first.pair_id, first.level, first.category, first.target_category) == (
        "2-1:cow",
        "intra-species",
        "cow",
        None,
    )
    assert (second.pair_id, second.level, second.category) == ("4-2:all", "cross-family", "cat")
    assert second.target_category == "cow"
    assert second.source_uri == f"{root}/JPEGImages/Felidae/cat/000000000004.jpg"
    assert first.source_visibility == [1, *[2] * 16]
    assert [row.pair_id for row in rows_of(read(root, level="cross-family"))] == ["4-2:all"]
    assert rows_of(read(root, occluded="halved"))[0].source_xy_px != first.source_xy_px


def test_wrong_files_of_geoaware_are_named(tmp_path):
    root = geoaware_root(tmp_path)
    folder = root / "PairAnnotation" / "test"
    for name, source in (
        ("a", "data/ap-10k/ImageAnnotation/Bovidae/cow/000000000077.json"),
        ("b", "elsewhere.json"),
        ("c", "data/ap-10k/ImageAnnotation/Felidae/cat/000000000004.json"),
        ("d", "x/ImageAnnotation/Felidae/lion/000000000002.json"),
    ):
        target = "data/ap-10k/ImageAnnotation/Bovidae/cow/000000000001.json"
        (folder / f"{name}.json").write_text(json.dumps({"src_json_path": source, "trg_json_path": target}))
    (folder / "e.json").write_text("[")
    items = read(root, split="test", level="intra-species")
    reasons = [item.reason for item in items if isinstance(item, Rejected)]

    assert [row.pair_id for row in rows_of(items)] == ["2-1:cow"]
    assert sorted(reasons) == ["duplicate id", "malformed JSON", "missing annotation", "wrong value", "wrong value"]


def test_a_folder_that_is_neither_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"annotations has no ap10k-train-split1\.json, .*PairAnnotation/"):
        read(tmp_path, split="test")
    with pytest.raises(ValueError, match="has the splits test, train, val: say which with --split"):
        read(root_with(tmp_path, SMALL))


def test_keypoints_of_other_names_are_noted(tmp_path):
    root = root_with(tmp_path, SMALL)
    file = root / "annotations" / "ap10k-train-split1.json"
    file.write_text(file.read_text().replace("left_eye", "L_Eye"))
    notes = [item.what for item in read(root, split="test") if isinstance(item, Note)]

    assert (
        notes[:3] == ["category whose keypoints have other names than AP-10K's; they are named by their positions"] * 3
    )
