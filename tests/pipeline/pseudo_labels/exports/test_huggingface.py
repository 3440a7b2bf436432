from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from labelled import POINTS_PX, PROVENANCE, labelled_row, tables, write_images
from make import encoded, noise_rgb

from pipeline.pseudo_labels.exports.huggingface import export_huggingface


def rows_of(folder: Path, pattern: str = "*.parquet") -> list[dict]:
    return [row for file in sorted((folder / "data").glob(pattern)) for row in pq.read_table(file).to_pylist()]


def front_matter(folder: Path) -> dict:
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    assert body.startswith("\n# Pseudo-labelled correspondences")
    return yaml.safe_load(head)


def test_rows_hold_their_images_and_labels(tmp_path):
    a, b = write_images(tmp_path / "in", "a.jpg", "b.png")

    rows = [labelled_row("one", a, b, split="trn"), labelled_row("two", b, a, split="val", category=None)]
    exported = export_huggingface(tables(*rows), str(tmp_path / "out"), provenance=PROVENANCE)

    assert exported.labels.total.n_pairs == 2
    (one,), (two,) = rows_of(tmp_path / "out", "train-*"), rows_of(tmp_path / "out", "validation-*")
    assert one == {
        "source_image": {"bytes": Path(a).read_bytes(), "path": "a.jpg"},
        "target_image": {"bytes": Path(b).read_bytes(), "path": "b.png"},
        "pair_id": "one",
        "dataset": None,
        "category": "cat",
        "target_category": None,
        "source_xy_px": POINTS_PX,
        "target_xy_px": POINTS_PX[::-1],
        "keypoint_id": ["nose", "ear", "tail"],
        "keypoint_probability": [0.875, 0.9375, 0.75],
        "source_box_xyxy": [0.0, 1.0, 31.0, 22.0],
        "target_box_xyxy": [2.0, 0.0, 30.0, 24.0],
    }
    assert two["source_image"]["bytes"] == Path(b).read_bytes()


def test_the_card_says_how_to_open_it(tmp_path):
    a, b = write_images(tmp_path / "in", "a.jpg", "b.png")

    rows = [labelled_row("one", a, b, split="no"), labelled_row("two", b, a, split="hold out!")]
    export_huggingface(tables(*rows), str(tmp_path / "out"), provenance=PROVENANCE)

    head = front_matter(tmp_path / "out")
    assert head["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "no", "path": "data/no-*.parquet"},
                {"split": "hold_out", "path": "data/hold_out-*.parquet"},
            ],
        }
    ]
    features = head["dataset_info"]["features"]
    assert features[0] == {"name": "source_image", "dtype": "image"}
    assert {"name": "source_xy_px", "list": {"list": "float32"}} in features
    assert {"name": "keypoint_id", "list": "string"} in features
    assert [one["name"] for one in features] == list(rows_of(tmp_path / "out")[0])


def test_images_by_reference(tmp_path):
    a, b = write_images(tmp_path / "in", "a.jpg", "b.png")
    inline = encoded(noise_rgb(5))
    rows = [
        labelled_row("one", "a.jpg", "b.png"),
        labelled_row("two", "gone.jpg", "b.png"),
        labelled_row("three", "a.jpg", None, target_image=inline),
    ]

    exported = export_huggingface(
        tables(*rows),
        str(tmp_path / "out"),
        provenance=PROVENANCE,
        images="reference",
        image_root=str(tmp_path / "in"),
    )

    one, three = rows_of(tmp_path / "out")
    assert (one["source_image"], one["target_image"]) == ({"bytes": None, "path": a}, {"bytes": None, "path": b})
    assert three["target_image"]["bytes"] == inline
    assert exported.left_out == {"not_found": 1}
    assert "`path` leads to them" in (tmp_path / "out" / "README.md").read_text()


def test_shards_are_bounded_and_lose_nothing(tmp_path):
    a, b = write_images(tmp_path / "in", "a.png", "b.png")
    rows = [labelled_row(f"{number:04d}", a, b) for number in range(450)]

    export_huggingface(tables(*rows, rows_each=64), str(tmp_path / "out"), provenance=PROVENANCE, shard_bytes=2**14)

    files = sorted((tmp_path / "out" / "data").iterdir())
    assert [file.name for file in files] == [f"train-{number:05d}.parquet" for number in range(len(files))]
    assert len(files) > 1
    assert [row["pair_id"] for row in rows_of(tmp_path / "out")] == [row["pair_id"] for row in rows]
    groups = [pq.ParquetFile(file).metadata.row_group(0).num_rows for file in files]
    assert max(groups) <= 100


def test_what_is_no_image_is_counted(tmp_path):
    a, b = write_images(tmp_path / "in", "a.png", "b.png")
    (tmp_path / "text.png").write_text("no image")
    rows = [
        labelled_row("text", str(tmp_path / "text.png"), b),
        labelled_row("inline", a, None, target_image=b"neither"),
        labelled_row("good", a, b),
    ]

    exported = export_huggingface(tables(*rows), str(tmp_path / "out"), provenance=PROVENANCE)

    assert exported.left_out == {"not_an_image": 2}
    assert [row["pair_id"] for row in rows_of(tmp_path / "out")] == ["good"]


def test_interrupted_it_is_not_there(tmp_path):
    a, b = write_images(tmp_path / "in", "a.png", "b.png")

    def broken():
        yield from tables(labelled_row("one", a, b))
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        export_huggingface(broken(), str(tmp_path / "out"), provenance=PROVENANCE)
    assert not (tmp_path / "out").exists()

    export_huggingface(tables(labelled_row("one", a, b)), str(tmp_path / "out"), provenance=PROVENANCE)
    assert [row["pair_id"] for row in rows_of(tmp_path / "out")] == ["one"]


def test_rows_without_probabilities(tmp_path):
    a, b = write_images(tmp_path / "in", "a.png", "b.png")
    row = labelled_row("one", a, b, keypoint_probability=None)

    exported = export_huggingface(tables(row), str(tmp_path / "out"), provenance={})

    assert exported.labels.total.expected is None
    assert "| expected precision | not known |" in (tmp_path / "out" / "README.md").read_text()
    assert rows_of(tmp_path / "out")[0]["keypoint_probability"] is None
