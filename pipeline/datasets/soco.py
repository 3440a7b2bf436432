"""SOCO: Images/CATEGORY/*.JPEG and PairAnnotations/{intra,cross,trainsplits}/GROUP/*.json, one file per pair.

`--pairs` says which points of a pair correspond:

    soc     pairs within a category, points of the same name (SOC)
    cc      pairs within a category, points of the same local concept, such as any wheel (CC): target_valid_xy_px has
            all points of the target that count, and target_xy_px the first of them
    cross   pairs across categories, points of the same name (Cross-SOC); level is cross-category

pair_id is GROUP/ID, with the folder and the id that the file states, keypoint_id is the source point's name. Points and
boxes are in pixels of the image; a box may be null. A pair without corresponding points is left out by design, as the
published evaluator does. https://github.com/GenIntel/SOCO
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pipeline.datasets.common.fields import Fields, read_json
from pipeline.datasets.common.interface import (
    DataError,
    DatasetOptions,
    PairRow,
    Points,
    Rejected,
    build_or_reject,
    map_in_threads,
)
from pipeline.datasets.common.layout import folders_near
from pipeline.io import storage

_PAIRS, _IMAGES = "PairAnnotations", "Images"

_ByName = dict[str, tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions):
    """Options of the data set SOCO."""

    pairs: Literal["soc", "cc", "cross"] = "soc"
    """Pairs within a category by the points' names (soc) or by concept (cc), or pairs across categories (cross)."""
    split: Literal["train", "test"] | None = None
    """Only the pairs within a category that are for training or for testing trained probes; default: all."""


def pairs(options: Options) -> Iterator[PairRow | Rejected]:
    """Pairs in order of group and file name. Raises ValueError for a split of cross pairs, which have none."""
    if options.pairs == "cross" and options.split is not None:
        raise ValueError(f"--split {options.split}: SOCO's pairs across categories have no splits; leave --split out")
    root = _root(options.root)
    part = "cross" if options.pairs == "cross" else "intra"
    names = (part,) if options.split is None else ("trainsplits", options.split)
    folder = storage.join(root, _PAIRS, *names)
    groups = sorted(storage.folder_names(folder))
    files = [(group, uri) for group in groups for uri in storage.list_files(storage.join(folder, group), ".json")]
    if not files:
        raise FileNotFoundError(f"{folder} has no pairs, GROUP/*.json: is PairAnnotations.zip unpacked completely?")
    yield from map_in_threads(partial(_pair_or_rejected, root, options), files)


def _root(given: str) -> str:
    """The folder that holds PairAnnotations."""
    for folder in folders_near(given, "soco.*", f"{_PAIRS}|{_IMAGES}"):
        if _PAIRS in storage.folder_names(folder):
            return folder
    raise FileNotFoundError(f"{given} has no folder {_PAIRS}: --root must be SOCOv1, with its archives unpacked")


def _pair_or_rejected(root: str, options: Options, file: tuple[str, str]) -> PairRow | Rejected:
    group, uri = file
    name = uri.rpartition("/")[2].removesuffix(".json")
    return build_or_reject(f"{group}/{name}", _pair, root, options, group, uri)


def _pair(root: str, options: Options, group: str, uri: str) -> PairRow:
    record = read_json(uri)
    if not isinstance(record, dict):
        raise DataError(uri, "malformed JSON", f"expected an object, got {type(record).__name__}")
    fields = Fields(record, uri)
    source, target = _points(fields, "src_keypoints"), _points(fields, "trg_keypoints")
    valid = _same_concept(fields, source, target) if options.pairs == "cc" else _same_name(fields, source, target)
    if not valid:
        field = "concept_matches" if options.pairs == "cc" else "semantic_overlap"
        raise DataError(uri, "no corresponding points", f"field {field} names none", by_design=True)
    source_category, target_category = _category(fields, "src_category"), _category(fields, "trg_category")
    return PairRow(
        where=uri,
        pair_id=f"{group}/{fields.identity('pair_id')}",
        source_uri=storage.join(root, _IMAGES, source_category, fields.text("src_image")),
        target_uri=storage.join(root, _IMAGES, target_category, fields.text("trg_image")),
        category=source_category,
        target_category=target_category if target_category != source_category else None,
        level="cross-category" if options.pairs == "cross" else None,
        split=options.split,
        source_xy_px=[source[name] for name in valid],
        target_xy_px=[points[0] for points in valid.values()],
        keypoint_id=list(valid),
        source_all_xy_px=list(source.values()),
        source_all_keypoint_id=list(source),
        target_all_xy_px=list(target.values()),
        target_all_keypoint_id=list(target),
        target_valid_xy_px=list(valid.values()) if options.pairs == "cc" else None,
        source_box_xyxy=fields.optional("src_bndbox", fields.box),
        target_box_xyxy=fields.optional("trg_bndbox", fields.box),
        source_stated_wh=fields.size_of_list("src_imsize"),
        target_stated_wh=fields.size_of_list("trg_imsize"),
    )


def _category(fields: Fields, name: str) -> str:
    """The image's category; files of pairs within a category may state it once, as `category`."""
    return fields.text(name if fields.has(name) else "category")


def _points(fields: Fields, name: str) -> _ByName:
    """The visible points of an image by name, in the order of the file. DataError if a name occurs twice."""
    points: _ByName = {}
    for keypoint in fields.records(name):
        keypoint_name = keypoint.text("name")
        if keypoint_name in points:
            raise DataError(keypoint.where, "wrong value", f"field name: {keypoint_name!r} was there before")
        points[keypoint_name] = keypoint.point("pos")
    return points


def _same_name(fields: Fields, source: _ByName, target: _ByName) -> dict[str, Points]:
    """The target's point of each name in semantic_overlap."""
    names = fields.texts("semantic_overlap")
    _check_known(fields, "semantic_overlap", names, source, "src_keypoints")
    _check_known(fields, "semantic_overlap", names, target, "trg_keypoints")
    return {name: [target[name]] for name in names}


def _same_concept(fields: Fields, source: _ByName, target: _ByName) -> dict[str, Points]:
    """For each source point in concept_matches all target points of its groups, each once, in the order of the file."""
    valid: dict[str, dict[str, tuple[float, float]]] = {}
    for match in fields.records("concept_matches"):
        source_names, target_names = match.texts("src_keypoints"), match.texts("trg_keypoints")
        _check_known(match, "src_keypoints", source_names, source, "src_keypoints")
        _check_known(match, "trg_keypoints", target_names, target, "trg_keypoints")
        for source_name in source_names:
            valid.setdefault(source_name, {}).update((name, target[name]) for name in target_names)
    in_order = sorted(valid, key=list(source).index)
    return {name: [target[point] for point in target if point in valid[name]] for name in in_order if valid[name]}


def _check_known(fields: Fields, field: str, names: list[str], points: _ByName, where: str) -> None:
    if unknown := [name for name in names if name not in points]:
        detail = f"field {field}: {', '.join(map(repr, unknown))} is not among the pair's {where}"
        raise DataError(fields.where, "wrong value", detail)
