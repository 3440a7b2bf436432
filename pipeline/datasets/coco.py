"""COCO-keypoint style JSON (Animal-Pose, AP-10K): keypoints N x (x, y, v), visible where v > 0; bbox [x, y, w, h].

`--annotations` is the JSON file, `--root` the folder that the images' file_name is relative to. Coordinates stay as
published. https://cocodataset.org/#format-data
"""

from collections.abc import Iterator

from pipeline import storage
from pipeline.datasets.fields import Fields, read_json
from pipeline.datasets.instances import Instance, by_name, sample_pairs
from pipeline.datasets.interface import DataError, Options, PairRow, Rejected, attempt

OPTIONS = ("annotations", "pairs_per_category", "seed")


def pairs(options: Options) -> Iterator[PairRow | Rejected]:
    """Rejected annotations first, then pairs by category; keypoint_id is the keypoint's name."""
    if options.annotations is None:
        raise ValueError("coco needs --annotations: the JSON file with images, annotations and categories")
    content = read_json(options.annotations)
    if not isinstance(content, dict):
        raise ValueError(f"{options.annotations}: expected an object, got {type(content).__name__}")
    document = Fields(content, options.annotations)
    images, categories = _by_id(document.records("images")), _by_id(document.records("categories"))
    instances: dict[str, Instance] = {}
    for fields in document.records("annotations"):
        instance = attempt(fields.where, _instance, fields, images, categories, options.root)
        if isinstance(instance, Rejected):
            yield instance
        elif instance.id in instances:
            yield Rejected(
                pair=instance.id,
                where=fields.where,
                reason="duplicate id",
                detail=f"field id: {instance.id} was there before",
            )
        else:
            instances[instance.id] = instance
    yield from sample_pairs(instances.values(), options.pairs_per_category, options.seed)


def _by_id(records: list[Fields]) -> dict[int, Fields]:
    found: dict[int, Fields] = {}
    for fields in records:
        identity = fields.integer("id")
        if identity in found:
            raise DataError(fields.where, "duplicate id", f"field id: {identity} was there before")
        found[identity] = fields
    return found


def _instance(fields: Fields, images: dict[int, Fields], categories: dict[int, Fields], root: str) -> Instance:
    image = _referred(fields, "image_id", images)
    category = _referred(fields, "category_id", categories)
    keypoints = by_name(fields, category.texts("keypoints"), fields.keypoints_xyv("keypoints"))
    return Instance(
        id=str(fields.integer("id")),
        where=fields.where,
        image_uri=storage.join(root, image.text("file_name")),
        category=category.text("name"),
        xy_px={name: (x, y) for name, (x, y, v) in keypoints.items() if v > 0},
        box_xyxy=fields.box_xywh("bbox"),
    )


def _referred(fields: Fields, name: str, among: dict[int, Fields]) -> Fields:
    identity = fields.integer(name)
    if identity not in among:
        raise DataError(fields.where, "wrong value", f"field {name}: there is no id {identity}")
    return among[identity]
