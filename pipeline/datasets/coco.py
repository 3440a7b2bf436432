"""COCO-keypoint style JSON (Animal-Pose, AP-10K): keypoints N x (x, y, v), visible where v > 0.

`--annotations` is the JSON file, `--root` the folder that the images' file names are relative to. Coordinates stay as
published. The form of `images` distinguishes two variants:

    COCO            a list of {id, file_name}               bbox [x, y, width, height]; an annotation has an id
    Animal-Pose     an object {"1": "2007_000063.jpg"}      bbox [x_min, y_min, x_max, y_max]; its position is its id

https://cocodataset.org/#format-data https://sites.google.com/view/animal-pose
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass

from pipeline.datasets.common.fields import Fields, read_json
from pipeline.datasets.common.instances import Instance, SamplingOptions, by_name, sample_pairs
from pipeline.datasets.common.interface import Box, DataError, PairRow, Rejected, build_or_reject
from pipeline.io import storage
from pipeline.io.uri_field import Uri

_ById = dict[str, Fields]
_ReadBox = Callable[[Fields, str], Box]


@dataclass(frozen=True, kw_only=True)
class Options(SamplingOptions):
    """What to read of a data set in COCO's form."""

    annotations: Uri | None = None
    """The JSON file, path or URI."""


def pairs(options: Options) -> Iterator[PairRow | Rejected]:
    """Rejected records first, then pairs by category; keypoint_id is the keypoint's name."""
    if options.annotations is None:
        raise ValueError("coco needs --annotations: the JSON file with images, annotations and categories")
    content = read_json(options.annotations)
    if not isinstance(content, dict):
        raise ValueError(f"{options.annotations}: expected an object, got {type(content).__name__}")
    document = Fields(content, options.annotations)
    categories = yield from _by_id(document.records("categories"))
    if isinstance(content.get("images"), dict):
        images, annotations, read_box = *_of_animal_pose(document), Fields.box
    else:
        images = yield from _by_id(document.records("images"))
        annotations = yield from _by_id(document.records("annotations"))
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
    yield from sample_pairs(instances, options.pairs_per_category, options.seed)


def _of_animal_pose(document: Fields) -> tuple[_ById, _ById]:
    """Images and annotations of the form that has `images` as an object."""
    images = {
        image_id: Fields({"file_name": name}, f"{document.where}, images[{image_id!r}]")
        for image_id, name in document.record["images"].items()
    }
    return images, {str(position): fields for position, fields in enumerate(document.records("annotations"))}


def _by_id(records: list[Fields]) -> Generator[Rejected, None, _ById]:
    """Returns the records by id; yields as Rejected those without one, or with one that occurred before."""
    by_id: _ById = {}
    for fields in records:
        identity = build_or_reject(fields.where, fields.integer, "id")
        if isinstance(identity, Rejected):
            yield identity
        elif str(identity) in by_id:
            detail = f"field id: {identity} was there before"
            yield Rejected(pair=str(identity), where=fields.where, reason="duplicate id", detail=detail)
        else:
            by_id[str(identity)] = fields
    return by_id


def _instance(
    annotation_id: str, fields: Fields, images: _ById, categories: _ById, read_box: _ReadBox, root: str
) -> Instance:
    image = _referred(fields, "image_id", images)
    category = _referred(fields, "category_id", categories)
    keypoints = by_name(fields, category.texts("keypoints"), fields.keypoints_xyv("keypoints"))
    return Instance(
        id=annotation_id,
        where=fields.where,
        image_uri=storage.join(root, image.text("file_name")),
        category=category.text("name"),
        xy_px={name: (x, y) for name, (x, y, v) in keypoints.items() if v > 0},
        box_xyxy=read_box(fields, "bbox"),
    )


def _referred(fields: Fields, name: str, among: _ById) -> Fields:
    identity = str(fields.integer(name))
    if identity not in among:
        raise DataError(fields.where, "wrong value", f"field {name}: there is no id {identity}")
    return among[identity]
