from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets import animal_pose
from pipeline.datasets.common.interface import Note, PairRow, Rejected


def image(image_id: str, *boxes: list[float], jpeg: bytes | None = b"jpeg of ") -> dict[str, Any]:
    points = [{"name": name, "x": float(x), "y": 1.5} for x, name in enumerate(("nose", "tail", "paw"))]
    instances = [{"category": "cat", "bbox_xyxy": box, "keypoints": points} for box in boxes]
    return {"image_id": image_id, "jpeg": jpeg and jpeg + image_id.encode(), "instances": instances}


BOX = [1.0, 2.0, 3.0, 4.0]


def read(folder: Path, images: list[dict[str, Any]], **options: Any) -> list[PairRow | Rejected]:
    pq.write_table(pa.Table.from_pylist(images), folder / "val.parquet")
    out = str(folder / "out" / "pairs.parquet")
    return list(animal_pose.pairs(animal_pose.Options(**{"root": str(folder), "out": out} | options)))


@pytest.mark.parametrize("root", ["", "val.parquet"])
def test_images_are_written_once_beside_the_manifest_byte_for_byte(tmp_path, root):
    note, *rows = read(tmp_path, [image("a", BOX), image("b", BOX, BOX), image("alone")], root=str(tmp_path / root))
    assert isinstance(note, Note)
    assert {row.split for row in rows} == {"val"}
    assert len(rows) == 2
    folder = tmp_path / "out" / "pairs_images"
    assert {uri for row in rows for uri in (row.source_uri, row.target_uri)} == {f"{folder}/a.jpg", f"{folder}/b.jpg"}
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {"a.jpg": b"jpeg of a", "b.jpg": b"jpeg of b"}
    assert sorted(name for row in rows for name in row.pair_id.split(":")[0].split("-")) == ["a.0", "a.0", "b.0", "b.1"]
    assert rows[0].keypoint_id == ["nose", "tail", "paw"]
    assert rows[0].source_xy_px == [(0.0, 1.5), (1.0, 1.5), (2.0, 1.5)]
    assert rows[0].source_box_xyxy == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("wrong", "place", "reason", "detail"),
    [
        (image("../b", BOX), "row 3", "wrong value", "field image_id: expected a plain name, got '../b'"),
        (image("a", BOX, jpeg=b"other "), "row 3", "duplicate id", "field image_id: a was there before"),
        (image("c", BOX, jpeg=None), "row 3", "missing field", "field jpeg: expected bytes"),
        (image("c", BOX, BOX[::-1]), "row 3, instances[1]", "wrong value", "field bbox_xyxy: expected a box"),
    ],
)
def test_what_is_wrong_is_named_and_the_others_stay(tmp_path, wrong, place, reason, detail):
    rejected, *rows = read(tmp_path, [image("a", BOX), image("b", BOX), wrong])
    assert rejected.where == f"{tmp_path}/val.parquet, {place}"
    assert rejected.reason == reason
    assert detail in rejected.detail
    assert rows
    assert (tmp_path / "out" / "pairs_images" / "a.jpg").read_bytes() == b"jpeg of a"


def test_another_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"column instances is missing; there are: image_id, jpeg"):
        read(tmp_path, [{"image_id": "a", "jpeg": b"x"}])
    (tmp_path / "val.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ValueError, match=r"val.parquet, after row 0: cannot be read as Parquet"):
        list(animal_pose.pairs(animal_pose.Options(root=str(tmp_path), out="pairs.parquet")))


def test_a_file_that_is_read_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"val.parquet is also an input"):
        read(tmp_path, [image("a", BOX), image("b", BOX)], out=str(tmp_path / "val.parquet"))


def test_splits_are_the_files(tmp_path):
    published = (
        rf"has no \.parquet file.* --dataset coco --annotations {tmp_path}/keypoints.json --root {tmp_path}/images"
    )
    with pytest.raises(FileNotFoundError, match=published):
        list(animal_pose.pairs(animal_pose.Options(root=str(tmp_path), out="pairs.parquet")))
    with pytest.raises(ValueError, match="no split 'train'; there are: val"):
        read(tmp_path, [image("a", BOX)], split="train")


def test_the_real_validation_split(shared, tmp_path):
    options = animal_pose.Options(
        root=str(shared / "data" / "animal-pose"),
        split="val",
        out=str(tmp_path / "pairs.parquet"),
        pairs_per_category=20,
    )
    rows = [item for item in animal_pose.pairs(options) if isinstance(item, PairRow)]
    assert len(rows) == 100
    assert {row.category for row in rows} == {"cat", "cow", "dog", "horse", "sheep"}
    assert all(len(row.keypoint_id) >= 3 for row in rows)
    assert {uri for row in rows for uri in (row.source_uri, row.target_uri)} == {
        str(file) for file in (tmp_path / "pairs_images").iterdir()
    }
