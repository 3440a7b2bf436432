"""Labels as keypoints in COCO's form, where keypoints have names: one annotation for every object of an image.

    annotations.json    images, annotations (keypoints x, y, 2; bbox; keypoint_probability), categories with their names
    images/             every image, byte for byte
    README.md           the data card

What is lost: the pairs, and with them which label came from which pair. A keypoint that several pairs place differently
has its most probable place. `nemf prepare --dataset coco` makes new pairs of the objects.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.pseudo_labels.data_card import CARD, data_card
from pipeline.pseudo_labels.exports.exported import Exported, export_rows
from pipeline.pseudo_labels.exports.folder import new_folder
from pipeline.pseudo_labels.exports.image_files import ImageFiles
from pipeline.pseudo_labels.exports.object_keypoints import ObjectAnnotation, ObjectKeypoints

ANNOTATIONS = "annotations.json"
NO_NAMES = (
    "COCO's form needs keypoints with names, and these labels are of points that only their pair knows (match "
    "--points, or keypoints without ids): export spair or huggingface"
)
_UNKNOWN_CATEGORY = "unknown"
_VISIBLE = 2


def export_coco(
    tables: Iterable[pa.Table],
    out: str,
    *,
    provenance: Mapping[str, Any],
    named: bool,
    image_root: str | None = None,
) -> Exported:
    """Write the folder `out`, which must be new or empty; the counts of the pairs that went into it.

    tables: PAIRS rows with inline images. named: whether a keypoint's id means the same in all pairs.
    image_root: the folder or URI that relative image URIs are below.
    Raises ValueError if keypoints have no names, if no pair can be exported, and as new_folder does.
    """
    if not named:
        raise ValueError(NO_NAMES)
    exported = Exported()
    with new_folder(out) as folder, closing(ObjectKeypoints(folder)) as objects:
        images = ImageFiles(folder / "images", image_root)

        def write(row: dict[str, Any]) -> None:
            files = images.add_both(row)
            category = row["category"] or _UNKNOWN_CATEGORY
            objects.add_pair(row, files, {"source": category, "target": row["target_category"] or category})

        export_rows(tables, exported, write)
        _write_annotations(folder / ANNOTATIONS, objects)
        exported.n_images = images.n_files
        exported.notes = [
            "One annotation for each object of an image: the pairs that the labels came from are lost. A keypoint that "
            "several pairs place differently has its most probable place.",
            "An object without a box has that of the whole image.",
            *images.notes(),
        ]
        (folder / CARD).write_text(data_card("COCO's form", exported, provenance), encoding="utf-8")
    return exported


def _write_annotations(file: Path, objects: ObjectKeypoints) -> None:
    """The JSON file, object after object."""
    categories = objects.categories()
    number_of = {category: number for number, category in enumerate(categories, 1)}
    described = (
        {"id": number_of[name], "name": name, "supercategory": "", "keypoints": ids, "skeleton": []}
        for name, ids in categories.items()
    )
    images = (
        {"id": number, "file_name": name, "width": width, "height": height}
        for number, name, width, height in objects.images()
    )
    annotations = (_annotation(one, number_of[one.category], categories[one.category]) for one in objects.read())
    with file.open("w", encoding="utf-8") as text:
        for opening, name, records in (
            ("{", "categories", described),
            (",\n", "images", images),
            (",\n", "annotations", annotations),
        ):
            text.write(f'{opening}"{name}": [')
            text.writelines(_separated(records))
            text.write("]")
        text.write("}\n")


def _separated(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    for number, record in enumerate(records):
        yield (",\n" if number else "\n") + json.dumps(record)


def _annotation(one: ObjectAnnotation, category_id: int, names: list[str]) -> dict[str, Any]:
    absent = (0.0, 0.0, 0.0)
    points = [one.keypoints.get(name, absent) for name in names]
    left, top, right, bottom = one.box_xyxy
    width, height = right - left, bottom - top
    return {
        "id": one.id,
        "image_id": one.image_id,
        "category_id": category_id,
        "bbox": [left, top, width, height],
        "area": width * height,
        "iscrowd": 0,
        "num_keypoints": len(one.keypoints),
        "keypoints": [
            number
            for name, (x, y, _) in zip(names, points, strict=True)
            for number in (x, y, _VISIBLE if name in one.keypoints else 0)
        ],
        "keypoint_probability": [p for _, _, p in points],
    }
