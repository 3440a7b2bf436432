"""AP-10K as correspondence lists: pairs of animals of one species, of one family, or of two families.

`--root` is AP-10K as it is published, with annotations/ap10k-{train,val,test}-split1.json and data/, or the folder that
GeoAware-SC makes of it, with PairAnnotation/, ImageAnnotation/ and JPEGImages/, whose lists are then read as they are.

Of the published files the three parts are merged, and images with one animal are used that has at least three labelled
keypoints (v > 0) and a box. The pairs are those of a fixed rule that depends on the ids of the images alone. "Order"
below is that of SHA-256 hashes of ids:

    split           of each species, in order: 30 images test, then 20 val, the others train
    intra-species   all pairs of a species; in train at most 50 for each of its images, the first in order
    cross-species   the first 900 pairs in order of each family in test, 400 in val
    cross-family    the first 30 pairs in order of each two families in test, 20 in val

Only pairs with three shared keypoints count, in one direction, which the hash says too; train has no other level than
intra-species. The numbers are GeoAware-SC's, the lists are not: theirs depend on the machine that made them. `--list`
reads a list instead, Parquet with source_image_id, target_image_id, level and split, and `--write-list` writes one.

`category` is the species, keypoint_id one of KEYPOINTS, pair_id SOURCE-TARGET:UNIT with the image ids and the species,
family or `all` that GeoAware-SC averages over. An occluded point (v = 1) is a point like any other; `--occluded halved`
puts it where GeoAware-SC has it. https://github.com/AlexTheBad/AP-10K https://github.com/Junyi42/GeoAware-SC
"""

import hashlib
import heapq
import itertools
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.coco import ById, by_id, referred
from pipeline.datasets.common.fields import EmptyBoxError, Fields, read_json
from pipeline.datasets.common.instances import MIN_SHARED_KEYPOINTS
from pipeline.datasets.common.interface import (
    Box,
    DataError,
    Note,
    PairRow,
    Points,
    Rejected,
    SplitOptions,
    build_or_reject,
    choose_split,
    map_in_threads,
)
from pipeline.datasets.common.overlap import image_hashes, training_hashes
from pipeline.datasets.common.records import parquet_rows
from pipeline.io import storage
from pipeline.io.uri_field import Uri

KEYPOINTS = (
    "left_eye", "right_eye", "nose", "neck", "root_of_tail",
    "left_shoulder", "left_elbow", "left_front_paw", "right_shoulder", "right_elbow", "right_front_paw",
    "left_hip", "left_knee", "left_back_paw", "right_hip", "right_knee", "right_back_paw",
)  # fmt: skip
"""AP-10K's keypoints in the order of its annotations."""
MIRROR_KEYPOINT_IDS = [(name, f"right_{name[5:]}") for name in KEYPOINTS if name.startswith("left_")]
GEOMETRY_GROUPS = [
    [KEYPOINTS[position] for position in group] for group in ([5, 8], [6, 9, 12, 15], [7, 10, 13, 16], [11, 14])
]
"""GeoAware-SC's groups: shoulders, elbows with knees, paws, hips. The eyes are in none."""

INTRA_SPECIES, CROSS_SPECIES, CROSS_FAMILY = LEVELS = ("intra-species", "cross-species", "cross-family")
SPLITS = ("train", "val", "test")

_PARTS = tuple(f"ap10k-{part}-split1.json" for part in SPLITS)
_N_TEST_IMAGES, _N_VAL_IMAGES = 30, 20
_MAX_TRAIN_PAIRS_PER_IMAGE = 50
_MAX_PAIRS = {
    (CROSS_SPECIES, "val"): 400,
    (CROSS_SPECIES, "test"): 900,
    (CROSS_FAMILY, "val"): 20,
    (CROSS_FAMILY, "test"): 30,
}
"""Maximum number of pairs of a family, and of two families."""
_SEED = "ap-10k list 1"
"""Part of everything that is hashed; another list has another seed."""
_LETTERBOX_PX = 840
"""Side of the square into which GeoAware-SC scales and pads images before it halves occluded points."""
_LIST_COLUMNS = ("source_image_id", "target_image_id", "level", "split")


@dataclass(frozen=True, kw_only=True)
class Options(SplitOptions):
    """Options of AP-10K."""

    level: Literal["all", "intra-species", "cross-species", "cross-family"] = "all"
    """Only pairs of this level."""
    occluded: Literal["labelled", "halved", "dropped"] = "labelled"
    """Occluded points (v = 1) stay where they are labelled; have their coordinates halved in the padded image as in
    GeoAware-SC's evaluation, a fault; or are dropped, and pairs with fewer than three others with them. The data set is
    then called ap-10k-halved or ap-10k-dropped."""
    list: Uri | None = None
    """Parquet file with the pairs to read instead of those of the rule: source_image_id, target_image_id, level and
    split."""
    write_list: Uri | None = None
    """Parquet file to write the list of pairs to, in the form that --list reads."""
    training_images: tuple[Uri, ...] = ()
    """Images that a model was trained on: image files, Parquet files with a column of them, or folders of either. Fills
    seen_in_training: whether one of the pair's image files is among them byte for byte; copies that were encoded again
    are not found."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Animal:
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


_Animals = dict[str, _Animal | Rejected]
"""The animals by image id; a Rejected for one that is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """One pair of a list."""

    where: str
    source_id: str
    target_id: str
    level: str
    split: str

    def line(self) -> str:
        return f"{self.source_id}\t{self.target_id}\t{self.level}\t{self.split}\n"


def pairs(options: Options) -> Iterator[PairRow | Rejected | Note]:
    """Records left out first, then a note with the hash of the list, then its pairs in order."""
    if options.write_list:
        storage.refuse_overwrite(options.write_list, options.out, options.list or options.out, *options.training_images)
    trained_on = training_hashes(options.training_images) if options.training_images else None
    animals: _Animals
    if "PairAnnotation" in storage.folder_names(options.root):
        animals, chosen = yield from _of_geoaware(options)
    else:
        animals = yield from _of_published(options.root)
        chosen = yield from (_of_rule(animals, options) if options.list is None else _of_list(options.list, options))
    if options.write_list:
        _write_list(chosen, options.write_list)
    yield Note(where=options.list or options.root, what=f"list of {len(chosen):,} pairs, SHA-256 {list_sha256(chosen)}")
    rows = [build_or_reject(f"{pair.source_id}-{pair.target_id}", _pair, pair, animals, options) for pair in chosen]
    yield from rows if trained_on is None else _with_seen(rows, trained_on)


def list_sha256(chosen: Iterable[_Chosen]) -> str:
    """SHA-256, in hexadecimal, of the sorted lines "source id, target id, level, split" with tabs between."""
    return hashlib.sha256("".join(sorted(pair.line() for pair in chosen)).encode()).hexdigest()


def halved_xy_px(x_px: float, y_px: float, image_wh: tuple[int, int]) -> tuple[float, float]:
    """Where GeoAware-SC's evaluation has an occluded point, in pixels of the original image.

    It scales the image to a long side of 840 pixels, pads it to a square, and multiplies the coordinates in the square
    by v / 2. The point it scores is halfway to the square's top left corner, which may be outside the image.
    """
    width, height = image_wh
    scale = _LETTERBOX_PX / max(image_wh)
    left, top = (int((_LETTERBOX_PX - round(_LETTERBOX_PX * side / max(image_wh))) / 2) for side in (width, height))
    return ((x_px * scale + left) / 2 - left) / scale, ((y_px * scale + top) / 2 - top) / scale


def _pair(chosen: _Chosen, animals: _Animals, options: Options) -> PairRow:
    source, target = (_animal_of(image_id, chosen, animals) for image_id in (chosen.source_id, chosen.target_id))
    level, unit = _level_and_unit(source, target)
    if level != chosen.level or source.image_id == target.image_id:
        detail = f"{source.species} ({source.family}) and {target.species} ({target.family}) are {level}"
        raise DataError(chosen.where, "wrong value", f"expected a pair of two images that is {chosen.level}: {detail}")
    lowest = 2 if options.occluded == "dropped" else 1
    shared = [
        position
        for position in range(len(KEYPOINTS))
        if source.xyv[position][2] >= lowest and target.xyv[position][2] >= lowest
    ]
    if len(shared) < MIN_SHARED_KEYPOINTS:
        reason = f"pair that shares fewer than {MIN_SHARED_KEYPOINTS} keypoints"
        raise DataError(chosen.where, reason, f"it shares {len(shared)}", by_design=True)
    return PairRow(
        where=chosen.where,
        pair_id=f"{source.image_id}-{target.image_id}:{unit}",
        source_uri=source.image_uri,
        target_uri=target.image_uri,
        category=source.species,
        target_category=None if source.species == target.species else target.species,
        level=level,
        dataset=None if options.occluded == "labelled" else f"ap-10k-{options.occluded}",
        split=chosen.split,
        source_xy_px=_points(source, shared, options),
        target_xy_px=_points(target, shared, options),
        keypoint_id=[KEYPOINTS[position] for position in shared],
        source_visibility=[int(source.xyv[position][2]) for position in shared],
        target_visibility=[int(target.xyv[position][2]) for position in shared],
        source_all_xy_px=[(x, y) for x, y, v in source.xyv if v > 0],
        source_all_keypoint_id=_names(source),
        target_all_xy_px=[(x, y) for x, y, v in target.xyv if v > 0],
        target_all_keypoint_id=_names(target),
        mirror_keypoint_ids=MIRROR_KEYPOINT_IDS,
        geometry_groups=GEOMETRY_GROUPS,
        source_box_xyxy=source.box_xyxy,
        target_box_xyxy=target.box_xyxy,
        source_stated_wh=source.image_wh,
        target_stated_wh=target.image_wh,
    )


def _animal_of(image_id: str, chosen: _Chosen, animals: _Animals) -> _Animal:
    animal = animals.get(image_id)
    if animal is None:
        detail = f"there is no image {image_id} with one animal, three keypoints and a box"
        raise DataError(chosen.where, "image that is not in the data set", detail)
    if isinstance(animal, Rejected):
        raise DataError(animal.where, animal.reason, animal.detail, by_design=animal.by_design)
    return animal


def _level_and_unit(source: _Animal, target: _Animal) -> tuple[str, str]:
    """The level of a pair, and the species, family or `all` that GeoAware-SC names it after."""
    if source.family != target.family:
        return CROSS_FAMILY, "all"
    if source.species != target.species:
        return CROSS_SPECIES, source.family
    return INTRA_SPECIES, source.species


def _points(animal: _Animal, positions: Sequence[int], options: Options) -> Points:
    points: Points = []
    for x_px, y_px, v in (animal.xyv[position] for position in positions):
        if v == 1 and options.occluded == "halved":
            if animal.image_wh is None:
                detail = "fields width, height: expected the image's size, which --occluded halved needs"
                raise DataError(animal.where, "missing field", detail)
            points.append(halved_xy_px(x_px, y_px, animal.image_wh))
        else:
            points.append((x_px, y_px))
    return points


def _names(animal: _Animal) -> list[str]:
    return [KEYPOINTS[position] for position in sorted(animal.labelled)]


def _with_seen(rows: list[PairRow | Rejected], trained_on: set[bytes]) -> Iterator[PairRow | Rejected]:
    found = image_hashes(uri for row in rows if isinstance(row, PairRow) for uri in (row.source_uri, row.target_uri))
    for row in rows:
        if isinstance(row, PairRow):
            seen = not trained_on.isdisjoint({found[row.source_uri], found[row.target_uri]})
            row = replace(row, seen_in_training=seen)
        yield row


# The published files.


def _of_published(root: str) -> Generator[Rejected | Note, None, _Animals]:
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
    animals: _Animals = {}
    for image_id, annotations in sorted(of_image.items()):
        animal = build_or_reject(image_id, _only_animal, annotations, images, categories, root)
        if isinstance(animal, Rejected):
            yield animal
        else:
            animals[image_id] = animal
    return animals


def _only_animal(annotations: list[Fields], images: ById, categories: ById, root: str) -> _Animal:
    fields = annotations[0]
    if len(annotations) > 1:
        raise DataError(fields.where, "image with several animals", f"it has {len(annotations)}", by_design=True)
    image, category = referred(fields, "image_id", images), referred(fields, "category_id", categories)
    uri = storage.resolve(image.text("file_name"), storage.join(root, "data"))
    animal = _animal(fields, image, category, uri)
    if len(animal.labelled) < MIN_SHARED_KEYPOINTS:
        reason = f"image with fewer than {MIN_SHARED_KEYPOINTS} keypoints"
        raise DataError(fields.where, reason, f"it has {len(animal.labelled)}", by_design=True)
    return animal


def _animal(fields: Fields, image: Fields, category: Fields, uri: str) -> _Animal:
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
    return _Animal(
        image_id=image.identity("id"),
        where=fields.where,
        image_uri=uri,
        species=category.text("name"),
        family=category.text("supercategory"),
        xyv=xyv,
        box_xyxy=box_xyxy,
        image_wh=image.size_wh("width", "height"),
    )


# The rule.


def _of_rule(animals: _Animals, options: Options) -> Generator[Rejected, None, list[_Chosen]]:
    """Returns the pairs of the rule in the split and the levels asked for, and yields units that have none."""
    split = choose_split(options.split, SPLITS, options.root)
    levels: tuple[str, ...] = LEVELS if options.level == "all" else (options.level,)
    if split == "train":
        if options.level not in ("all", INTRA_SPECIES):
            raise ValueError(f"split train of ap-10k has no --level {options.level}; only {INTRA_SPECIES}")
        levels = (INTRA_SPECIES,)
    species = _by_species([animal for animal in animals.values() if isinstance(animal, _Animal)], split)
    chosen: list[_Chosen] = []
    for level in levels:
        for unit, candidates, at_most in _units(species, level, split):
            some = _first(candidates, at_most, level, split)
            if not some:
                reason = f"unit of {level} without a pair in {split}"
                detail = f"no two of its images share {MIN_SHARED_KEYPOINTS} keypoints"
                yield Rejected(pair=unit, where=options.root, reason=reason, detail=detail, by_design=True)
            chosen += some
    return chosen


def _by_species(animals: list[_Animal], split: str) -> dict[tuple[str, str], list[_Animal]]:
    """The animals of the split by (family, species), sorted; a species without one has an empty list."""
    species = defaultdict(list)
    for animal in animals:
        species[animal.family, animal.species].append(animal)
    first, end = {
        "test": (0, _N_TEST_IMAGES),
        "val": (_N_TEST_IMAGES, _N_TEST_IMAGES + _N_VAL_IMAGES),
        "train": (_N_TEST_IMAGES + _N_VAL_IMAGES, None),
    }[split]
    return {
        key: sorted(members, key=lambda animal: _digest(animal.image_id))[first:end]
        for key, members in sorted(species.items())
    }


_Pairs = Iterable[tuple[_Animal, _Animal]]


def _units(
    species: dict[tuple[str, str], list[_Animal]], level: str, split: str
) -> Iterator[tuple[str, _Pairs, int | None]]:
    """(name, candidate pairs, maximum number of pairs, None without one) of each species, family or two families."""
    if level == INTRA_SPECIES:
        for (_, name), members in species.items():
            at_most = _MAX_TRAIN_PAIRS_PER_IMAGE * len(members) if split == "train" else None
            yield name, itertools.combinations(members, 2), at_most
        return
    families: dict[str, list[list[_Animal]]] = defaultdict(list)
    for (family, _), members in species.items():
        families[family].append(members)
    at_most = _MAX_PAIRS[level, split]
    if level == CROSS_SPECIES:
        for family, groups in families.items():
            if len(groups) > 1:
                crossed = (itertools.product(a, b) for a, b in itertools.combinations(groups, 2))
                yield family, itertools.chain.from_iterable(crossed), at_most
        return
    of_family = {family: list(itertools.chain.from_iterable(groups)) for family, groups in families.items()}
    for (family, members), (other, others) in itertools.combinations(of_family.items(), 2):
        yield f"{family}, {other}", itertools.product(members, others), at_most


def _first(candidates: _Pairs, at_most: int | None, level: str, split: str) -> list[_Chosen]:
    """The first pairs in the order of their hashes that share enough keypoints; all for None."""
    hashed = (
        (_digest(*sorted((a.image_id, b.image_id))), a, b)
        for a, b in candidates
        if len(a.labelled & b.labelled) >= MIN_SHARED_KEYPOINTS
    )
    in_order = sorted(hashed, key=lambda item: item[0]) if at_most is None else _smallest(hashed, at_most)
    chosen = []
    for digest, *both in in_order:
        source, target = sorted(both, key=lambda animal: animal.image_id, reverse=digest[-1] % 2 == 1)
        chosen.append(
            _Chosen(where=source.where, source_id=source.image_id, target_id=target.image_id, level=level, split=split)
        )
    return chosen


def _smallest(hashed: Iterable[tuple[bytes, _Animal, _Animal]], at_most: int) -> list[tuple[bytes, _Animal, _Animal]]:
    return heapq.nsmallest(at_most, hashed, key=lambda item: item[0])


def _digest(*ids: str) -> bytes:
    return hashlib.sha256(":".join((_SEED, *ids)).encode()).digest()


# Lists.


def _of_list(uri: str, options: Options) -> Generator[Rejected, None, list[_Chosen]]:
    """Returns the pairs of a Parquet list in the split and level asked for, and yields rows that are wrong."""
    chosen: list[_Chosen] = []
    for row in parquet_rows(uri, _LIST_COLUMNS):
        pair = build_or_reject(row.where, _listed, row)
        if isinstance(pair, Rejected):
            yield pair
        else:
            chosen.append(pair)
    split = choose_split(options.split, {pair.split for pair in chosen}, uri)
    return [pair for pair in chosen if pair.split == split and options.level in ("all", pair.level)]


def _listed(row: Fields) -> _Chosen:
    level = row.text("level")
    if level not in LEVELS:
        raise DataError(row.where, "wrong value", f"field level: expected {', '.join(LEVELS)}, got {level!r}")
    source_id, target_id = row.identity("source_image_id"), row.identity("target_image_id")
    return _Chosen(where=row.where, source_id=source_id, target_id=target_id, level=level, split=row.text("split"))


def _write_list(chosen: list[_Chosen], uri: str) -> None:
    values = [[pair.source_id, pair.target_id, pair.level, pair.split] for pair in chosen]
    schema = pa.schema([pa.field(name, pa.string(), nullable=False) for name in _LIST_COLUMNS])
    table = pa.Table.from_pylist([dict(zip(_LIST_COLUMNS, row, strict=True)) for row in values], schema=schema)
    with storage.atomic_writer(uri) as path:
        pq.write_table(table, path, compression="zstd")


def _of_geoaware(options: Options) -> Generator[Rejected, None, tuple[_Animals, list[_Chosen]]]:
    """Returns the animals and pairs of the lists that GeoAware-SC made, and yields files that are wrong."""
    folder = storage.join(options.root, "PairAnnotation")
    folders = {name: _level_and_split(name) for name in sorted(storage.folder_names(folder))}
    known = {name: found for name, found in folders.items() if found is not None}
    if options.list is not None:
        raise ValueError(f"{folder} has the lists already: --list is read with AP-10K as published")
    split = choose_split(options.split, {split for _, split in known.values()}, folder)
    files = []
    for name, (level, of) in known.items():
        if of == split and options.level in ("all", level):
            files += [(uri, level, split) for uri in storage.list_files(storage.join(folder, name), ".json")]
    chosen: list[_Chosen] = []
    paths: dict[str, str] = {}
    for pair in map_in_threads(lambda file: build_or_reject(file[0], _stored_pair, *file), files):
        if isinstance(pair, Rejected):
            yield pair
            continue
        (source, target), (level, split), where = pair
        other = [path for path in (source, target) if paths.setdefault(_id_of(path), path) != path]
        if other:
            detail = f"image {_id_of(other[0])} is {other[0]} here and {paths[_id_of(other[0])]} elsewhere"
            yield Rejected(pair=where, where=where, reason="duplicate id", detail=detail)
            continue
        chosen.append(
            _Chosen(where=where, source_id=_id_of(source), target_id=_id_of(target), level=level, split=split)
        )

    def read(path: str) -> _Animal | Rejected:
        return build_or_reject(path, _stored_animal, path, options.root)

    return dict(zip(paths, map_in_threads(read, paths.values()), strict=True)), chosen


def _level_and_split(folder: str) -> tuple[str, str] | None:
    """The level and split of a folder such as test_cross_species or trn; None for another folder."""
    split, _, level = folder.partition("_")
    levels = {"": INTRA_SPECIES, "cross_species": CROSS_SPECIES, "cross_family": CROSS_FAMILY}
    splits = {"trn": "train", "val": "val", "test": "test"}
    return (levels[level], splits[split]) if level in levels and split in splits else None


def _stored_pair(uri: str, level: str, split: str) -> tuple[tuple[str, str], tuple[str, str], str]:
    """The paths of both annotations below ImageAnnotation/, (level, split), and the file."""
    fields = _object(uri)
    source, target = (_below_annotations(fields, name) for name in ("src_json_path", "trg_json_path"))
    return (source, target), (level, split), uri


def _below_annotations(fields: Fields, name: str) -> str:
    """FAMILY/SPECIES/IMAGE.json, of a path that begins in the folder from which GeoAware-SC was run."""
    _, found, path = fields.text(name).replace("\\", "/").rpartition("ImageAnnotation/")
    stem = PurePosixPath(path).stem
    if not (found and path.count("/") == 2 and path.endswith(".json") and stem.isdecimal() and ".." not in path):
        expected = "a path .../ImageAnnotation/FAMILY/SPECIES/IMAGE.json, where IMAGE is the image's number"
        raise DataError(fields.where, "wrong value", f"field {name}: expected {expected}, got {fields.text(name)!r}")
    return path


def _id_of(path: str) -> str:
    return str(int(PurePosixPath(path).stem))


def _stored_animal(path: str, root: str) -> _Animal:
    """The animal of an annotation below ImageAnnotation/, which holds the records of its image and category as well."""
    family, species, name = path.split("/")
    fields = _object(storage.join(root, "ImageAnnotation", path))
    uri = storage.join(root, "JPEGImages", family, species, f"{PurePosixPath(name).stem}.jpg")
    names = Fields({"name": species, "supercategory": family}, fields.where)
    animal = _animal(fields, fields, names, uri)
    if animal.image_id != _id_of(path):
        detail = f"field id: expected {_id_of(path)}, as the file is named, got {animal.image_id}"
        raise DataError(fields.where, "wrong value", detail)
    return animal


def _object(uri: str) -> Fields:
    try:
        content = read_json(uri)
    except FileNotFoundError as error:
        raise DataError(uri, "missing annotation", "the file is not there") from error
    if not isinstance(content, dict):
        raise DataError(uri, "malformed JSON", f"expected an object, got {type(content).__name__}")
    return Fields(content, uri)
