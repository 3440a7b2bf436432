"""Labels as a folder in the form of SPair-71k, which the field's loaders read.

    JPEGImages/<category>/<image>.jpg               every image, byte for byte; a loader adds .jpg, whatever the format
    PairAnnotation/<split>/<pair>.json              points, boxes and sizes of a pair
    Layout/large/<split>.txt                        the names of the pairs, NUMBER-SOURCE-TARGET:CATEGORY
    ImageAnnotation/<category>/<image>.json         all keypoints of an image, where keypoints have names
    README.md                                       the data card

What SPair-71k does not have: `kps_probability`, the probability of each label, and `manifest_pair_id`. What labels do
not have: levels of difficulty are -1, since a loader takes them for numbers; a missing box is the whole image. Splits
are trn, val and test as in SPair-71k, and a pair without one is in trn. Both images of a pair are in the folder of its
category, which is what loaders expect; a target's own category is in `trg_category`.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.pseudo_labels.data_card import CARD, data_card
from pipeline.pseudo_labels.exports.exported import Exported, export_rows
from pipeline.pseudo_labels.exports.folder import new_folder
from pipeline.pseudo_labels.exports.image_files import ImageFile, ImageFiles, safe_name, short_hash
from pipeline.pseudo_labels.exports.object_keypoints import ObjectKeypoints, ids_of

UNKNOWN_LEVEL = -1
_LEVELS = ("viewpoint_variation", "scale_variation", "truncation", "occlusion")
_SPLITS = {"train": "trn", "training": "trn", "validation": "val"}
_SPAIR_IDS = [str(number) for number in range(30)]


def export_spair(
    tables: Iterable[pa.Table],
    out: str,
    *,
    provenance: Mapping[str, Any],
    named: bool = False,
    image_root: str | None = None,
) -> Exported:
    """Write the folder `out`, which must be new or empty; the counts of what is in it.

    tables: PAIRS rows with inline images. named: whether a keypoint's id means the same in all pairs.
    image_root: the folder or URI that relative image URIs are below.
    Raises ValueError if no pair can be exported, and as new_folder does.
    """
    exported = Exported()
    with new_folder(out) as folder, closing(ObjectKeypoints(folder)) as objects:
        writer = _Writer(folder, ImageFiles(folder / "JPEGImages", image_root, ".jpg"), objects if named else None)
        export_rows(writer.flushing(tables), exported, writer.write)
        if named:
            _write_image_annotations(folder / "ImageAnnotation", objects)
        exported.n_images = writer.images.n_files
        exported.notes = [*_notes(named), *writer.images.notes()]
        (folder / CARD).write_text(data_card("SPair-71k's form", exported, provenance), encoding="utf-8")
    return exported


class _Writer:
    def __init__(self, folder: Path, images: ImageFiles, objects: ObjectKeypoints | None) -> None:
        self._folder = folder
        self.images = images
        self._objects = objects
        self._number = 0
        self._layout: dict[str, list[str]] = defaultdict(list)

    def write(self, row: dict[str, Any]) -> None:
        """Write one pair. Raises ImageError."""
        category = _folder_name(row["category"])
        sides = ("source", "target")
        files = self.images.add_both(row, subfolder=category)
        source, target = files.values()
        split = _split(row["split"])
        self._number += 1
        name = f"{self._number:06d}-{Path(source.name).stem}-{Path(target.name).stem}:{category}"
        annotation = _annotation(self._number, name, row, category, source, target)
        file = self._folder / "PairAnnotation" / split / f"{name}.json"
        if split not in self._layout:
            file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(annotation), encoding="utf-8")
        self._layout[split].append(name)
        if self._objects is not None:
            self._objects.add_pair(row, files, dict.fromkeys(sides, category))

    def flushing(self, tables: Iterable[pa.Table]) -> Iterable[pa.Table]:
        """The tables; the names of the pairs of each are written before the next."""
        for table in tables:
            yield table
            self._flush()

    def _flush(self) -> None:
        layout = self._folder / "Layout" / "large"
        layout.mkdir(parents=True, exist_ok=True)
        for split, names in self._layout.items():
            with (layout / f"{split}.txt").open("a", encoding="utf-8") as file:
                file.writelines(f"{name}\n" for name in names)
            names.clear()


def _write_image_annotations(folder: Path, objects: ObjectKeypoints) -> None:
    """One file for every image; of several objects of a category in it the last one's."""
    for one in objects.read():
        file = folder / one.category / f"{Path(one.image).stem}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        points = {name: [x, y] for name, (x, y, _) in one.keypoints.items()}
        annotation = {
            "filename": one.image,
            "image_width": one.size_wh[0],
            "image_height": one.size_wh[1],
            "category": one.category,
            "bndbox": one.box_xyxy,
            # SPair-71k's own ids are all there, null where the image lacks one
            "kps": {**dict.fromkeys(_SPAIR_IDS), **points} if set(points) <= set(_SPAIR_IDS) else points,
        }
        file.write_text(json.dumps(annotation), encoding="utf-8")


def _annotation(
    number: int, name: str, row: Mapping[str, Any], category: str, source: ImageFile, target: ImageFile
) -> dict[str, Any]:
    """The content of a file of PairAnnotation."""
    sizes = [[*image.size.shown_wh, 3] for image in (source, target)]
    boxes = [
        row[f"{side}_box_xyxy"] or [0, 0, *size[:2]] for side, size in zip(("source", "target"), sizes, strict=True)
    ]
    return {
        "pair_id": number,
        "filename": name,
        "src_imname": source.name,
        "trg_imname": target.name,
        "src_imsize": sizes[0],
        "trg_imsize": sizes[1],
        "src_bndbox": boxes[0],
        "trg_bndbox": boxes[1],
        "category": category,
        **({"trg_category": row["target_category"]} if row["target_category"] is not None else {}),
        "src_pose": "Unspecified",
        "trg_pose": "Unspecified",
        "src_kps": row["source_xy_px"],
        "trg_kps": row["target_xy_px"],
        "kps_ids": ids_of(row),
        **({"kps_probability": row["keypoint_probability"]} if row["keypoint_probability"] is not None else {}),
        "mirror": int(row["mirrored"] or 0),
        **{level: UNKNOWN_LEVEL if row[level] is None else row[level] for level in _LEVELS},
        "manifest_pair_id": row["pair_id"],
    }


def _folder_name(category: str | None) -> str:
    """A category as the name of a folder: itself if it can be one, else with a hash, so that no two become one."""
    if category is None:
        return "unknown"
    safe = safe_name(category, r"A-Za-z0-9_ \-")
    return safe if safe == category else f"{safe}_{short_hash(category)}"


def _split(split: str | None) -> str:
    """A split's name as SPair-71k has it."""
    name = safe_name(split or "trn")
    return _SPLITS.get(name, name)


def _notes(named: bool) -> list[str]:
    notes = [
        "Every image has the ending .jpg, which loaders add, and the bytes it had: some may be of another format.",
        "Levels of difficulty are -1, which is unknown; a pair without a box has that of the whole image.",
    ]
    if not named:
        notes.append(
            "Points have no names: an id tells the points of a pair apart and means nothing in another pair, and there "
            "is no ImageAnnotation."
        )
    return notes
