import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled import PROVENANCE, labelled_row, tables, write_images
from make import encoded, noise_rgb
from PIL import Image

from pipeline.datasets import spair
from pipeline.datasets.common.interface import SplitOptions
from pipeline.pseudo_labels.exports.spair import export_spair

_COLUMNS = ("source_xy_px", "target_xy_px", "keypoint_id", "keypoint_probability", "source_box_xyxy", "target_box_xyxy")


class FieldLoader:
    """A loader of SPair-71k as those of the field are written: names from the layout, images by category and name."""

    def __init__(self, root: Path, split: str) -> None:
        names = (root / "Layout" / "large" / f"{split}.txt").read_text().split("\n")
        self.names = names[:-1]
        self.images = root / "JPEGImages"
        categories = sorted(folder.name for folder in self.images.iterdir())
        files = [next((root / "PairAnnotation" / split).glob(f"{name}.json")) for name in self.names]
        self.annotations = [json.loads(Path(file).read_text()) for file in files]
        self.category_ids = [categories.index(annotation["category"]) for annotation in self.annotations]
        self.categories = categories
        self.source_names = [name.split("-")[1] + ".jpg" for name in self.names]
        self.target_names = [name.split("-")[2].split(":")[0] + ".jpg" for name in self.names]

    def __getitem__(self, index: int) -> dict[str, Any]:
        annotation = self.annotations[index]
        folder = self.images / self.categories[self.category_ids[index]]
        source, target = (Image.open(folder / name[index]) for name in (self.source_names, self.target_names))
        assert annotation["src_imname"] == self.source_names[index]
        assert annotation["src_imsize"] == [*source.size, 3]
        keys = ("src_kps", "trg_kps", "src_bndbox", "trg_bndbox")
        levels = ("viewpoint_variation", "scale_variation", "truncation", "occlusion")
        arrays = {key: np.array(annotation[key], np.float32) for key in (*keys, *levels)}
        return {**arrays, "source_rgb": np.array(source.convert("RGB")), "target_rgb": np.array(target.convert("RGB"))}


def read_back(folder: Path, split: str = "trn") -> list[Any]:
    return list(spair.pairs(SplitOptions(root=str(folder), out="pairs.parquet", split=split)))


def as_float32(value: Any) -> Any:
    return value if isinstance(value, list) and isinstance(value[0], str) else np.float32(value).tolist()


def test_our_reader_reads_equal_pairs(tmp_path):
    a, b, c = write_images(tmp_path / "in", "a.jpg", "b.png", "c.jpg")
    rows = [
        labelled_row("one", a, b, truncation=2, split="train"),
        labelled_row("two", b, c, category="dog", keypoint_probability=[0.1, 0.2, 0.3]),
        labelled_row("three", c, a, split="val"),
    ]
    out = tmp_path / "out"

    exported = export_spair(tables(*rows), str(out), provenance=PROVENANCE)

    assert (exported.labels.total.n_pairs, exported.labels.total.n_labels, exported.n_images) == (3, 9, 5)
    read = [*read_back(out), *read_back(out, "val")]
    assert [row.category for row in read] == ["cat", "dog", "cat"]
    assert [row.truncation for row in read] == [2, None, None]
    assert [row.viewpoint_variation for row in read] == [None] * 3
    for row, given in zip(read, rows, strict=True):
        assert {name: as_float32(getattr(row, name)) for name in _COLUMNS} == {
            name: given[name] for name in _COLUMNS
        } | {"keypoint_probability": as_float32(given["keypoint_probability"])}
        for side in ("source", "target"):
            assert Path(getattr(row, f"{side}_uri")).read_bytes() == Path(given[f"{side}_uri"]).read_bytes()


def test_a_loader_of_the_field_reads_it(tmp_path):
    a, b = write_images(tmp_path / "in", "a-1:[x]*.jpg", "ü b.png")
    out = tmp_path / "out"
    rows = [
        labelled_row("one", a, b, category="wild cat/2"),
        labelled_row("two", b, a, source_box_xyxy=None, target_category="dog"),
    ]

    export_spair(tables(*rows), str(out), provenance=PROVENANCE)

    loader = FieldLoader(out, "trn")
    first, second = loader[0], loader[1]
    assert first["src_kps"].tolist() == rows[0]["source_xy_px"]
    assert first["trg_kps"].tolist() == rows[0]["target_xy_px"]
    assert second["src_bndbox"].tolist() == [0, 0, 32, 24]
    assert (first["source_rgb"] == np.array(Image.open(a))).all()
    assert (second["source_rgb"] == np.array(Image.open(b))).all()
    assert loader.categories[0] == "cat"
    assert loader.categories[1].startswith("wild cat_2_")
    assert loader.annotations[1]["trg_category"] == "dog"


def test_names_that_are_equal_when_made_safe_stay_apart(tmp_path):
    one, two = write_images(tmp_path / "in", "a b.jpg", "a_b.jpg")
    (other,) = write_images(tmp_path / "other", "a_b.jpg")
    out = tmp_path / "out"
    rows = [
        labelled_row("one", one, two, category="a/b"),
        labelled_row("two", two, other, category="a:b"),
        labelled_row("three", one, two, category="a_b"),
    ]

    export_spair(tables(*rows), str(out), provenance=PROVENANCE)

    assert len(list((out / "JPEGImages").iterdir())) == 3
    assert len({row.source_uri for row in read_back(out)} | {row.target_uri for row in read_back(out)}) == 6


def test_keypoints_with_names_have_the_annotation_of_their_image(tmp_path):
    a, b, c = write_images(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg")
    rows = [
        labelled_row("one", a, b, keypoint_id=["0", "3", "7"]),
        labelled_row("two", c, b, keypoint_id=["0", "4", "7"], keypoint_probability=[0.99, 0.5, 0.5]),
    ]

    export_spair(tables(*rows), str(tmp_path / "out"), provenance=PROVENANCE, named=True)

    one, two = read_back(tmp_path / "out")
    # point 0 of image b is where the more probable label has it, point 7 where the first one had it
    expected = {"0": (30.0, 20.0), "3": (10.5, 5.25), "7": (1.0, 2.0), "4": (10.5, 5.25)}
    assert dict(zip(one.target_all_keypoint_id, one.target_all_xy_px, strict=True)) == expected
    assert one.source_all_keypoint_id == ["0", "3", "7"]
    assert two.source_all_keypoint_id == ["0", "4", "7"]


def test_keypoints_without_names_have_no_annotation_of_their_image(tmp_path):
    a, b = write_images(tmp_path / "in", "a.jpg", "b.jpg")

    export_spair(tables(labelled_row("one", a, b)), str(tmp_path / "out"), provenance=PROVENANCE)

    assert not (tmp_path / "out" / "ImageAnnotation").exists()
    assert read_back(tmp_path / "out")[0].source_all_xy_px is None


def test_what_cannot_be_exported_is_counted(tmp_path):
    a, b, c, gone = write_images(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg", "gone.jpg")
    Path(gone).unlink()
    (tmp_path / "text.jpg").write_text("no image")
    rows = [
        labelled_row("gone", a, gone),
        labelled_row("again", gone, b),
        labelled_row("partner", c, gone),
        labelled_row("text", str(tmp_path / "text.jpg"), b),
        labelled_row("none", a, None),
        labelled_row("empty", a, b, source_xy_px=[], target_xy_px=[], keypoint_id=[], keypoint_probability=[]),
        labelled_row("good", a, b),
    ]

    exported = export_spair(tables(*rows), str(tmp_path / "out"), provenance=PROVENANCE)

    assert exported.left_out == {"not_found": 3, "not_an_image": 1, "no_image": 1, "no_labels": 1}
    assert exported.examples["not_found"] == f"gone: {gone}: there is no such file"
    (row,) = read_back(tmp_path / "out")
    assert row.pair_id.startswith("000001-")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| not_found | 3 |" in card
    assert exported.n_images == len(list((tmp_path / "out" / "JPEGImages").rglob("*.jpg"))) == 2
    assert "| rules: precision | 0.9 |" in card


def test_nothing_to_export_is_an_error_that_says_why(tmp_path):
    a, b = write_images(tmp_path / "in", "a.jpg", "b.jpg")
    Path(b).unlink()

    with pytest.raises(
        ValueError, match=r"no pair to export; left out: 1 x not_found \(one: .*b.jpg: there is no such"
    ):
        export_spair(tables(labelled_row("one", a, b)), str(tmp_path / "out"), provenance=PROVENANCE)
    assert not (tmp_path / "out").exists()


def test_a_photograph_that_exif_turns_has_the_size_it_is_shown_in(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "turned.jpg").write_bytes(encoded(noise_rgb(0), "JPEG", exif=exif))
    (b,) = write_images(tmp_path, "b.jpg")

    rows = tables(labelled_row("one", str(tmp_path / "turned.jpg"), b))
    exported = export_spair(rows, str(tmp_path / "out"), provenance=PROVENANCE)

    (row,) = read_back(tmp_path / "out")
    assert (row.source_stated_wh, row.target_stated_wh) == ((24, 32), (32, 24))
    assert any("1 images are turned by their EXIF orientation" in note for note in exported.notes)


def test_inline_images_and_relative_uris(tmp_path):
    write_images(tmp_path / "in", "a.jpg")
    data = encoded(noise_rgb(7))
    row = labelled_row("one", "a.jpg", None, target_image=data)

    exported = export_spair(
        tables(row, row | {"pair_id": "two"}),
        str(tmp_path / "out"),
        provenance=PROVENANCE,
        image_root=str(tmp_path / "in"),
    )

    assert exported.n_images == 2
    assert {Path(row.target_uri).read_bytes() for row in read_back(tmp_path / "out")} == {data}
