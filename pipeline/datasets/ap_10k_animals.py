"""The animals of AP-10K as it is published, one an image: annotations/ap10k-{train,val,test}-split1.json and data/."""

from collections import defaultdict
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from pipeline.datasets.coco import ById, by_id, referred
from pipeline.datasets.common.fields import EmptyBoxError, Fields, read_json
from pipeline.datasets.common.instances import MIN_SHARED_KEYPOINTS
from pipeline.datasets.common.interface import Box, DataError, Note, Rejected, build_or_reject
from pipeline.io import storage

KEYPOINTS = (
    "left_eye", "right_eye", "nose", "neck", "root_of_tail",
    "left_shoulder", "left_elbow", "left_front_paw", "right_shoulder", "right_elbow", "right_front_paw",
    "left_hip", "left_knee", "left_back_paw", "right_hip", "right_knee", "right_back_paw",
)  # fmt: skip
"""AP-10K's keypoints in the order of its annotations."""

_PARTS = ("ap10k-train-split1.json", "ap10k-val-split1.json", "ap10k-test-split1.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Animal:
    """The animal of one image."""

    image_id: str
    where: str
    image_uri: str
    species: str
    family: str
    xyv: Sequence[tuple[float, float, float]]
    """The keypoints in the order of KEYPOINTS, (x_px, y_px, v): v is 0 unlabelled, 1 occluded, 2 visible."""
    box_xyxy: Box
    image_wh: tuple[int, int] | None

    @property
    def labelled(self) -> frozenset[int]:
        """Positions of the labelled keypoints in KEYPOINTS."""
        return frozenset(position for position, (_, _, v) in enumerate(self.xyv) if v > 0)


Animals = dict[str, Animal | Rejected]
"""The animals by image id; a Rejected for one that is wrong."""


def of_published(root: str) -> Generator[Rejected | Note, None, Animals]:
    """Returns the animals of images with a single one, and yields what is left out."""
    folder = storage.join(root, "annotations")
    if absent := [name for name in _PARTS if name not in storage.file_names(folder)]:
        raise FileNotFoundError(
            f"{folder} has no {', '.join(absent)}: --root must be AP-10K as published, which holds annotations/ and "
            "data/, or GeoAware-SC's form of it, which holds PairAnnotation/ and ImageAnnotation/"
        )
    documents = []
    for name in _PARTS:
        content = read_json(storage.join(folder, name))
        if not isinstance(content, dict):
            raise ValueError(f"{folder}/{name}: expected an object, got {type(content).__name__}")
        documents.append(Fields(content, storage.join(folder, name)))
    categories = yield from by_id(documents[0].records("categories"))
    for category in categories.values():
        if category.has("keypoints") and tuple(category.texts("keypoints")) != KEYPOINTS:
            what = "category whose keypoints have other names than AP-10K's; they are named by their positions"
            yield Note(where=category.where, what=what)
    images = yield from by_id([record for document in documents for record in document.records("images")])
    of_image: dict[str, list[Fields]] = defaultdict(list)
    for document in documents:
        for fields in document.records("annotations"):
            image_id = build_or_reject(fields.where, fields.identity, "image_id")
            if isinstance(image_id, Rejected):
                yield image_id
            else:
                of_image[image_id].append(fields)
    animals: Animals = {}
    for image_id, annotations in sorted(of_image.items()):
        animal = build_or_reject(image_id, _only_animal, annotations, images, categories, root)
        if isinstance(animal, Rejected):
            yield animal
        else:
            animals[image_id] = animal
    return animals


def _only_animal(annotations: list[Fields], images: ById, categories: ById, root: str) -> Animal:
    fields = annotations[0]
    if len(annotations) > 1:
        raise DataError(fields.where, "image with several animals", f"it has {len(annotations)}", by_design=True)
    image, category = referred(fields, "image_id", images), referred(fields, "category_id", categories)
    uri = storage.resolve(image.text("file_name"), storage.join(root, "data"))
    animal = read_animal(fields, image, category, uri)
    if len(animal.labelled) < MIN_SHARED_KEYPOINTS:
        reason = f"image with fewer than {MIN_SHARED_KEYPOINTS} keypoints"
        raise DataError(fields.where, reason, f"it has {len(animal.labelled)}", by_design=True)
    return animal


def read_animal(fields: Fields, image: Fields, category: Fields, uri: str) -> Animal:
    """The animal of one annotation and the records of its image and category."""
    if any(fields.record.get(name) == 1 for name in ("iscrowd", "is_crowd")):
        raise DataError(fields.where, "annotation of a crowd", "a pair needs a single animal", by_design=True)
    xyv = fields.keypoints_xyv("keypoints")
    if len(xyv) != len(KEYPOINTS) or any(v not in (0, 1, 2) for _, _, v in xyv):
        detail = f"field keypoints: expected {len(KEYPOINTS)} points [x, y, v] with v 0, 1 or 2, got {len(xyv)} points"
        raise DataError(fields.where, "wrong value", f"{detail} with v {', '.join(f'{v:g}' for _, _, v in xyv)}")
    try:
        box_xyxy = fields.box_xywh("bbox")
    except EmptyBoxError as error:
        raise DataError(fields.where, "annotation without a box", error.detail, by_design=True) from error
    return Animal(
        image_id=image.identity("id"),
        where=fields.where,
        image_uri=uri,
        species=category.text("name"),
        family=category.text("supercategory"),
        xyv=xyv,
        box_xyxy=box_xyxy,
        image_wh=image.size_wh("width", "height"),
    )
