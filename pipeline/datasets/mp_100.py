"""MP-100 as MARCO pairs it: pairs/pairs_DOMAIN.json, annotations/*test*.json (COCO), images below mp100/.

`--root` is mp100_all. level is the domain, such as animal_face, category the name that the annotations give to the
pair's category_id, and pair_id DOMAIN/NUMBER, counted from 0 in the list. keypoint_id is a keypoint's number, counted
from 0. A keypoint is visible where v > 0. The box of an image is the one from which the published evaluator takes T:
that of the image's objects with the longest side when the image is stretched to a square.

`--pairing-rule` says which points correspond:

    id          keypoints of the same number that are visible in both images, of the first object with the pair's
                category in each image
    published   as MARCO's evaluator has it, which is a fault: the invisible points of all objects are dropped in each
                image separately, and the others are paired by position, up to the shorter list. Where visibility
                differs, different keypoints are paired. keypoint_id is then the position.

Pairs for which the published rule pairs different keypoints are noted. https://github.com/visinf/MARCO
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from pipeline.datasets.common.fields import EmptyBoxError, Fields, read_json
from pipeline.datasets.common.interface import (
    Box,
    DataError,
    DatasetOptions,
    Note,
    PairRow,
    Rejected,
    build_or_reject,
)
from pipeline.datasets.common.layout import folders_near
from pipeline.io import storage

Domain = Literal["animal_body_unseen", "animal_face", "clothing", "furniture", "human_face"]

_DOMAINS: tuple[Domain, ...] = get_args(Domain)
_LISTS, _ANNOTATIONS, _IMAGES = "pairs", "annotations", "mp100"
_SPLITS = 5
_UNEQUAL = "pair in which the published evaluator pairs different keypoints, as visibility differs"

_Point = tuple[str, tuple[float, float]]
"""Number of a keypoint, and its x and y in pixels."""


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions):
    """Options of the data set MP-100."""

    domain: Domain | None = None
    """Read the list of this domain only; default: all lists that are there."""
    pairing_rule: Literal["id", "published"] = "id"
    """Pair keypoints by their number, or by position as the published evaluator does, which is a fault of it."""


@dataclass(frozen=True, slots=True)
class _Object:
    """An annotated object; its record is read when a pair needs it."""

    fields: Fields
    category_id: str

    def points(self) -> list[_Point]:
        keypoints = self.fields.keypoints_xyv("keypoints")
        return [(str(number), (x, y)) for number, (x, y, v) in enumerate(keypoints) if v > 0]

    def counts(self) -> bool:
        """Whether the object has keypoints, by num_keypoints or, if that is absent, by the keypoints themselves."""
        if self.fields.has("num_keypoints"):
            return self.fields.integer("num_keypoints") > 0
        return bool(self.fields.has("keypoints") and self.points())

    def box_xyxy(self) -> Box | None:
        """None for a box that is absent or has no area."""
        try:
            has_box = self.fields.has("bbox") and self.fields.record["bbox"] != []
            return self.fields.box_xywh("bbox") if has_box else None
        except EmptyBoxError:
            return None


@dataclass(frozen=True, slots=True)
class _Image:
    """An image with its objects, in the order of the files."""

    wh_px: tuple[int, int] | None
    """Width and height, None if they are not stated; sides of boxes are then compared in pixels."""
    objects: list[_Object] = field(default_factory=list)

    def box_xyxy(self) -> Box | None:
        """The box with the longest side, in the image stretched to a square."""
        width, height = self.wh_px or (1, 1)
        boxes = [box for thing in self.objects if thing.counts() and (box := thing.box_xyxy()) is not None]
        return max(boxes, key=lambda box: max((box[2] - box[0]) / width, (box[3] - box[1]) / height), default=None)

    def first_object(self, category_id: str) -> list[_Point]:
        """The visible points of the first object of the category; none if there is no such object."""
        return next(
            (thing.points() for thing in self.objects if thing.category_id == category_id and thing.counts()), []
        )

    def all_objects(self) -> list[_Point]:
        """The visible points of all objects, one object after the other."""
        return [point for thing in self.objects if thing.counts() for point in thing.points()]


_Images = dict[str, _Image]
_Names = dict[str, str]


def pairs(options: Options) -> Iterator[PairRow | Rejected | Note]:
    """Rejected records of the annotations first, then pairs by domain in the order of its list, and notes."""
    root = _root(options.root)
    images, names = yield from _annotations(storage.join(root, _ANNOTATIONS))
    lists = storage.join(root, _LISTS)
    present = storage.file_names(lists)
    domains = [domain for domain in _DOMAINS if f"pairs_{domain}.json" in present]
    if options.domain is None:
        for domain in (domain for domain in _DOMAINS if domain not in domains):
            yield Note(where=lists, what=f"there is no pairs_{domain}.json: the domain is left out")
    else:
        domains = [domain for domain in domains if domain == options.domain]
    if not domains:
        wanted = options.domain or "DOMAIN"
        raise FileNotFoundError(f"{lists} has no list pairs_{wanted}.json: unpack mp100_pairs.zip there")
    for domain in domains:
        for number, listed in enumerate(_records(storage.join(lists, f"pairs_{domain}.json"))):
            pair_id = f"{domain}/{number}"
            built = build_or_reject(pair_id, _pair, pair_id, domain, listed, root, images, names, options.pairing_rule)
            if isinstance(built, Rejected):
                yield built
                continue
            row, is_unequal = built
            yield row
            if is_unequal:
                yield Note(where=row.where, what=_UNEQUAL)


def _root(given: str) -> str:
    """The folder that holds the lists and the annotations."""
    for folder in folders_near(given, "mp-?100.*", f"{_LISTS}|{_ANNOTATIONS}|{_IMAGES}"):
        if {_LISTS, _ANNOTATIONS} <= storage.folder_names(folder):
            return folder
    raise FileNotFoundError(f"{given} has no folders {_LISTS} and {_ANNOTATIONS}: --root must be mp100_all")


def _annotations(folder: str) -> Generator[Rejected | Note, None, tuple[_Images, _Names]]:
    """Returns the images of the test splits by file name, and the categories' names by id."""
    uris = [uri for uri in storage.list_files(folder, ".json") if "test" in uri.rpartition("/")[2]]
    if not uris:
        raise FileNotFoundError(f"{folder} has no annotations of a test split, such as mp100_split1_test.json")
    if len(uris) != _SPLITS:
        yield Note(where=folder, what=f"annotations of {len(uris)} test splits, where {_SPLITS} are published")
    images: _Images = {}
    names: _Names = {}
    for uri in uris:
        content = read_json(uri)
        if not isinstance(content, dict):
            raise ValueError(f"{uri}: expected an object, got {type(content).__name__}")
        document = Fields(content, uri)
        by_id: dict[str, str] = {}
        if document.has("categories"):
            for category in document.records("categories"):
                name = build_or_reject(category.where, _named, category, "name")
                if isinstance(name, Rejected):
                    yield name
                else:
                    names.setdefault(*name)
        for image in document.records("images"):
            named = build_or_reject(image.where, _named, image, "file_name")
            if isinstance(named, Rejected):
                yield named
            else:
                image_id, file_name = named
                by_id[image_id] = file_name
                images.setdefault(file_name, _Image(image.size_wh("width", "height")))
        for annotation in document.records("annotations"):
            thing = build_or_reject(annotation.where, _object, annotation, by_id)
            if isinstance(thing, Rejected):
                yield thing
            else:
                images[thing[0]].objects.append(thing[1])
    return images, names


def _named(fields: Fields, name: str) -> tuple[str, str]:
    return fields.identity("id"), fields.text(name)


def _object(fields: Fields, by_id: dict[str, str]) -> tuple[str, _Object]:
    """The file name of the object's image, and the object."""
    image_id = fields.identity("image_id")
    if image_id not in by_id:
        raise DataError(fields.where, "wrong value", f"field image_id: there is no image {image_id}")
    return by_id[image_id], _Object(fields, fields.identity("category_id"))


def _records(uri: str) -> list[Fields]:
    content = read_json(uri)
    if not isinstance(content, list):
        raise ValueError(f"{uri}: expected a list of pairs, got {type(content).__name__}")
    return [Fields(record, f"{uri}, pair {number}") for number, record in enumerate(content)]


def _pair(
    pair_id: str, domain: str, listed: Fields, root: str, images: _Images, names: _Names, rule: str
) -> tuple[PairRow, bool]:
    """The pair, and whether the published rule pairs different keypoints in it."""
    category_id = listed.identity("category_id")
    source_file, source = _image(listed, "src_file", images)
    target_file, target = _image(listed, "trg_file", images)
    by_position = list(zip(source.all_objects(), target.all_objects(), strict=False))
    source_points, target_points = dict(source.first_object(category_id)), dict(target.first_object(category_id))
    if rule == "published":
        shared = [(str(position), a[1], b[1]) for position, (a, b) in enumerate(by_position)]
    else:
        shared = [
            (number, xy, target_points[number]) for number, xy in source_points.items() if number in target_points
        ]
    if not shared:
        detail = f"{source_file} and {target_file} have no visible keypoint in common"
        raise DataError(listed.where, "no corresponding points", detail, by_design=True)
    row = PairRow(
        where=listed.where,
        pair_id=pair_id,
        source_uri=storage.join(root, _IMAGES, source_file),
        target_uri=storage.join(root, _IMAGES, target_file),
        category=names.get(category_id, category_id),
        level=domain,
        split="test",
        source_xy_px=[source_xy_px for _, source_xy_px, _ in shared],
        target_xy_px=[target_xy_px for _, _, target_xy_px in shared],
        keypoint_id=[keypoint_id for keypoint_id, _, _ in shared],
        source_box_xyxy=source.box_xyxy(),
        target_box_xyxy=target.box_xyxy(),
        source_stated_wh=source.wh_px,
        target_stated_wh=target.wh_px,
    )
    if rule == "id":
        row = replace(
            row,
            source_all_xy_px=list(source_points.values()),
            source_all_keypoint_id=list(source_points),
            target_all_xy_px=list(target_points.values()),
            target_all_keypoint_id=list(target_points),
        )
    return row, any(a[0] != b[0] for a, b in by_position)


def _image(listed: Fields, name: str, images: _Images) -> tuple[str, _Image]:
    """The file name in a field of the list, and what is annotated there."""
    file_name = listed.text(name)
    if file_name not in images or not images[file_name].objects:
        detail = f"field {name}: {file_name} has no object in the annotations of the test splits"
        raise DataError(listed.where, "missing annotation", detail)
    return file_name, images[file_name]
