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

`category` is the species, keypoint_id a keypoint's name, pair_id SOURCE-TARGET:UNIT with the image ids and the
species, family or `all` that GeoAware-SC averages over. An occluded point (v = 1) is a point like any other;
`--occluded halved` puts it where GeoAware-SC has it. https://github.com/AlexTheBad/AP-10K https://github.com/Junyi42/GeoAware-SC
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.datasets.ap_10k_animals import KEYPOINTS, Animal, Animals, of_published
from pipeline.datasets.ap_10k_geoaware import halved_xy_px, of_geoaware
from pipeline.datasets.ap_10k_list import (
    CROSS_FAMILY,
    CROSS_SPECIES,
    INTRA_SPECIES,
    ListedPair,
    list_sha256,
    of_list,
    of_rule,
    write_list,
)
from pipeline.datasets.common.instances import MIN_SHARED_KEYPOINTS
from pipeline.datasets.common.interface import DataError, Note, PairRow, Points, Rejected, SplitOptions, build_or_reject
from pipeline.datasets.common.overlap import image_hashes, training_hashes
from pipeline.io import storage
from pipeline.io.uri_field import Uri

MIRROR_KEYPOINT_IDS = [(name, f"right_{name[5:]}") for name in KEYPOINTS if name.startswith("left_")]
GEOMETRY_GROUPS = [
    [KEYPOINTS[position] for position in group] for group in ([5, 8], [6, 9, 12, 15], [7, 10, 13, 16], [11, 14])
]
"""GeoAware-SC's groups: shoulders, elbows with knees, paws, hips. The eyes are in none."""


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


def pairs(options: Options) -> Iterator[PairRow | Rejected | Note]:
    """Records left out first, then a note with the hash of the list, then its pairs in order."""
    if options.write_list:
        storage.refuse_overwrite(options.write_list, options.out, options.list or options.out, *options.training_images)
    trained_on = training_hashes(options.training_images) if options.training_images else None
    animals: Animals
    if "PairAnnotation" in storage.folder_names(options.root):
        if options.list is not None:
            raise ValueError(f"{options.root} has GeoAware-SC's lists: --list is read with AP-10K as published")
        animals, chosen = yield from of_geoaware(options.root, options.split, options.level)
    else:
        animals = yield from of_published(options.root)
        if options.list is None:
            chosen = yield from of_rule(animals, options.root, options.split, options.level)
        else:
            chosen = yield from of_list(options.list, options.split, options.level)
    if options.write_list:
        write_list(chosen, options.write_list)
    yield Note(where=options.list or options.root, what=f"list of {len(chosen):,} pairs, SHA-256 {list_sha256(chosen)}")
    rows = [build_or_reject(f"{pair.source_id}-{pair.target_id}", _pair, pair, animals, options) for pair in chosen]
    yield from rows if trained_on is None else _with_seen(rows, trained_on)


def _pair(chosen: ListedPair, animals: Animals, options: Options) -> PairRow:
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


def _animal_of(image_id: str, chosen: ListedPair, animals: Animals) -> Animal:
    animal = animals.get(image_id)
    if animal is None:
        detail = f"there is no image {image_id} with one animal, three keypoints and a box"
        raise DataError(chosen.where, "image that is not in the data set", detail)
    if isinstance(animal, Rejected):
        raise DataError(animal.where, animal.reason, animal.detail, by_design=animal.by_design)
    return animal


def _level_and_unit(source: Animal, target: Animal) -> tuple[str, str]:
    """The level of a pair, and the species, family or `all` that GeoAware-SC names it after."""
    if source.family != target.family:
        return CROSS_FAMILY, "all"
    if source.species != target.species:
        return CROSS_SPECIES, source.family
    return INTRA_SPECIES, source.species


def _points(animal: Animal, positions: Sequence[int], options: Options) -> Points:
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


def _names(animal: Animal) -> list[str]:
    return [KEYPOINTS[position] for position in sorted(animal.labelled)]


def _with_seen(rows: list[PairRow | Rejected], trained_on: set[bytes]) -> Iterator[PairRow | Rejected]:
    found = image_hashes(uri for row in rows if isinstance(row, PairRow) for uri in (row.source_uri, row.target_uri))
    for row in rows:
        if isinstance(row, PairRow):
            seen = not trained_on.isdisjoint({found[row.source_uri], found[row.target_uri]})
            row = replace(row, seen_in_training=seen)
        yield row
