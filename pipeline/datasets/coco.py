"""COCO-keypoint style JSON (Animal-Pose, AP-10K): keypoints N x (x, y, v), visible where v > 0.

`--annotations` is the JSON file, `--root` the folder that the images' file names are relative to; they may also be
absolute paths or URIs, and coco_url stands in for a missing file_name. Ids are whole numbers or text. The form of
`images` distinguishes two variants:

    COCO            a list of {id, file_name}               bbox [x, y, width, height]; an annotation has an id
    Animal-Pose     an object {"1": "2007_000063.jpg"}      bbox [x_min, y_min, x_max, y_max]; its position is its id

Annotations that no pair can use are left out and counted: those without a visible keypoint, and those without a box
(unless no annotation has one: then the pairs have none). A pair is two objects of one category in different images
that share three visible keypoints.

Points and boxes belong to an image of the width and height that `images` states, if it does: another size is an error,
and that of the stored pixels of a photograph that its EXIF orientation turns means that they are turned with it.

Both images of a pair are in the same part of the data set: `--split` train has 80 % of the images, val and test 10 %
each, drawn by a hash of the file's name and `--split-seed`. Without `--split` all images are paired.

https://cocodataset.org/#format-data https://sites.google.com/view/animal-pose
"""

import hashlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from pipeline.datasets.common.fields import EmptyBoxError, Fields, read_json
from pipeline.datasets.common.instances import Instance, SamplingOptions, by_name, sample_pairs
from pipeline.datasets.common.interface import Box, DataError, Note, PairRow, Rejected, build_or_reject
from pipeline.io import storage
from pipeline.io.uri_field import Uri

ById = dict[str, Fields]
"""Records by their ids."""
_ReadBox = Callable[[Fields, str], Box]
_TRAIN, _TRAIN_AND_VAL = 0.8, 0.9
"""The share of the images in train, and in train and val together; the others are in test."""


@dataclass(frozen=True, kw_only=True)
class Options(SamplingOptions):
    """Options of a data set in COCO's form."""

    annotations: Uri | None = None
    """The JSON file, path or URI."""
    split: Literal["train", "val", "test"] | None = None
    """Pair only the images of this part: train has 80 % of the images, val and test 10 % each; default: all images."""
    split_seed: int = 0
    """Seed of the division into parts; use the same one for all parts."""


def pairs(options: Options) -> Iterator[PairRow | Rejected | Note]:
    """Rejected records first, then pairs by category; keypoint_id is the keypoint's name."""
    if options.annotations is None:
        raise ValueError("coco needs --annotations: the JSON file with images, annotations and categories")
    try:
        content = read_json(options.annotations)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"there is no file {options.annotations}, and none of that name below --root {options.root}"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{options.annotations}: expected an object, got {type(content).__name__}")
    document = Fields(content, options.annotations)
    categories = yield from by_id(document.records("categories"))
    if isinstance(content.get("images"), dict):
        images, annotations, read_box = *_of_animal_pose(document), Fields.box
    else:
        images = yield from by_id(document.records("images"))
        annotations = yield from by_id(document.records("annotations"))
        read_box = Fields.box_xywh
    instances: list[Instance] = []
    for annotation_id, fields in annotations.items():
        instance = build_or_reject(
            fields.where, _instance, annotation_id, fields, images, categories, read_box, options.root
        )
        if isinstance(instance, Rejected):
            yield instance
        else:
            instances.append(instance)
    instances = yield from _with_boxes(instances)
    yield from sample_pairs(_in_split(instances, options), options, options.split)


def part_of(image_name: str, seed: int) -> str:
    """The part of the data set that an image is in: train, val or test."""
    digest = hashlib.sha256(f"{seed}:{PurePosixPath(image_name).name}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    return "train" if position < _TRAIN else "val" if position < _TRAIN_AND_VAL else "test"


def _in_split(instances: list[Instance], options: Options) -> list[Instance]:
    """The objects in images of the part `--split`. Raises ValueError if there are objects, but none in that part."""
    if options.split is None:
        return instances
    inside = [instance for instance in instances if part_of(instance.image_uri, options.split_seed) == options.split]
    if instances and not inside:
        n_images = len({instance.image_uri for instance in instances})
        raise ValueError(
            f"{options.annotations}: none of the {n_images:,} images is in --split {options.split}; with so few, leave "
            "--split out or try another --split-seed"
        )
    return inside


def _with_boxes(instances: list[Instance]) -> Generator[Rejected, None, list[Instance]]:
    """Returns the objects that have a box, and yields the others as Rejected; all objects if none has a box."""
    boxed = [instance for instance in instances if instance.box_xyxy is not None]
    if not boxed:
        return instances
    for instance in instances:
        if instance.box_xyxy is None:
            detail = "field bbox is absent, empty or without area, and other annotations have a box"
            yield Rejected(
                pair=instance.id, where=instance.where, reason="annotation without a box", detail=detail, by_design=True
            )
    return boxed


def _of_animal_pose(document: Fields) -> tuple[ById, ById]:
    """Images and annotations of the form that has `images` as an object."""
    images = {
        image_id: Fields({"file_name": name}, f"{document.where}, images[{image_id!r}]")
        for image_id, name in document.record["images"].items()
    }
    return images, {str(position): fields for position, fields in enumerate(document.records("annotations"))}


def by_id(records: list[Fields]) -> Generator[Rejected, None, ById]:
    """Returns the records by id; yields as Rejected those without one, or with one that occurred before."""
    seen: ById = {}
    for fields in records:
        identity = build_or_reject(fields.where, fields.identity, "id")
        if isinstance(identity, Rejected):
            yield identity
        elif identity in seen:
            detail = f"field id: {identity} was there before"
            yield Rejected(pair=identity, where=fields.where, reason="duplicate id", detail=detail)
        else:
            seen[identity] = fields
    return seen


def _instance(
    annotation_id: str, fields: Fields, images: ById, categories: ById, read_box: _ReadBox, root: str
) -> Instance:
    if _is_absent(fields, "keypoints"):
        raise _unusable(fields, "annotation without a visible keypoint")
    category = referred(fields, "category_id", categories)
    if _is_absent(category, "keypoints"):
        raise _unusable(fields, "annotation of a category without keypoints")
    keypoints = by_name(fields, category.texts("keypoints"), fields.keypoints_xyv("keypoints"))
    xy_px = {name: (x, y) for name, (x, y, v) in keypoints.items() if v > 0}
    if not xy_px:
        raise _unusable(fields, "annotation without a visible keypoint")
    image = referred(fields, "image_id", images)
    name = "coco_url" if image.has("coco_url") and not image.has("file_name") else "file_name"
    return Instance(
        id=annotation_id,
        where=fields.where,
        image_uri=storage.resolve(image.text(name), root),
        category=category.text("name"),
        xy_px=xy_px,
        box_xyxy=_box(fields, read_box),
        image_wh=image.size_wh("width", "height"),
    )


def _unusable(fields: Fields, reason: str) -> DataError:
    """The error of an annotation that no pair can use: left out by design."""
    return DataError(fields.where, reason, "no pair can use it", by_design=True)


def _box(fields: Fields, read_box: _ReadBox) -> Box | None:
    """None for a box that is absent or has no area."""
    try:
        return None if _is_absent(fields, "bbox") else read_box(fields, "bbox")
    except EmptyBoxError:
        return None


def _is_absent(fields: Fields, name: str) -> bool:
    return not fields.has(name) or fields.record[name] == []


def referred(fields: Fields, name: str, among: ById) -> Fields:
    """The record whose id is in field `name`. DataError if there is none."""
    identity = fields.identity(name)
    if identity not in among:
        raise DataError(fields.where, "wrong value", f"field {name}: there is no id {identity}")
    return among[identity]
