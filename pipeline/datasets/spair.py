"""SPair-71k: Layout/large/<split>.txt names the pairs, PairAnnotation/<split>/<pair>.json has their keypoints.

The ':' in the annotations' file names may be '-' on file systems that do not allow it. Boxes are partly 1-based and
stay as published. Nuisance levels that an annotation does not give, or gives as -1, are null.
From ImageAnnotation/<category>, where it is, come all keypoints of each image and the azimuths. What SPair-71k does not
have, exports of labels do (pipeline.pseudo_labels.exports.spair): kps_probability. https://cvlab.postech.ac.kr/research/SPair-71k
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import PurePosixPath

from pipeline.datasets.common.fields import Fields, read_json
from pipeline.datasets.common.interface import (
    DataError,
    PairRow,
    Points,
    Rejected,
    SplitOptions,
    build_or_reject,
    choose_split,
    map_in_threads,
)
from pipeline.datasets.common.records import text_lines
from pipeline.datasets.spair_keypoints import geometry_groups, mirror_keypoint_ids
from pipeline.io import storage

_AZIMUTHS = 8


@dataclass(frozen=True, kw_only=True)
class ImageAnnotation:
    """What ImageAnnotation says of one image."""

    xy_px: Points
    """Every labelled keypoint."""
    keypoint_id: list[str]
    azimuth: int | None
    """Steps of 45 degrees, 0 to 7."""


ReadImage = Callable[[str, str], ImageAnnotation | None]
"""The annotation of an image by its category and file name; None where there is none."""


def pairs(options: SplitOptions) -> Iterator[PairRow | Rejected]:
    """Pairs in the order of the layout file; pair_id is the line in it."""
    layout = storage.join(options.root, "Layout", "large")
    splits = {PurePosixPath(uri).stem: uri for uri in storage.list_files(layout, ".txt")}
    if not splits:
        raise FileNotFoundError(f"{layout} has no split (*.txt): --root must be the folder that holds Layout/")
    split = choose_split(options.split, splits, layout)
    folder = storage.join(options.root, "PairAnnotation", split)
    present = {PurePosixPath(uri).name for uri in storage.list_files(folder, ".json")}
    read_image = image_annotations(storage.join(options.root, "ImageAnnotation"))

    def build(pair_id: str) -> PairRow | Rejected:
        return build_or_reject(pair_id, _pair, pair_id, options.root, split, folder, present, read_image)

    yield from map_in_threads(build, layout_lines(splits[split]))


def layout_lines(uri: str) -> list[str]:
    """The names of the pairs in a layout file, in order."""
    return [line.strip() for line in text_lines(uri) if line.strip()]


def image_annotations(folder: str) -> ReadImage:
    """Reads the files <folder>/<category>/<name>.json, each once. The function raises DataError for a malformed one."""

    @cache
    def names(category: str) -> frozenset[str]:
        files = storage.list_files(storage.join(folder, category), ".json")
        return frozenset(PurePosixPath(uri).name for uri in files)

    @cache
    def read(category: str, image_name: str) -> ImageAnnotation | None:
        file = f"{PurePosixPath(image_name).stem}.json"
        return _image(storage.join(folder, category, file)) if file in names(category) else None

    return read


def _image(uri: str) -> ImageAnnotation:
    fields = _record(uri)
    by_id = fields.record.get("kps")
    if not isinstance(by_id, dict):
        raise DataError(uri, "wrong type", f"field kps: expected an object of points by id, got {type(by_id).__name__}")
    labelled = {name: point for name, point in by_id.items() if point is not None}
    return ImageAnnotation(
        xy_px=Fields({"kps": list(labelled.values())}, uri).points("kps"),
        keypoint_id=list(labelled),
        azimuth=fields.level("azimuth_id", _AZIMUTHS - 1),
    )


def _pair(pair_id: str, root: str, split: str, folder: str, present: set[str], read_image: ReadImage) -> PairRow:
    file = f"{pair_id}.json"
    if file not in present:
        file = file.replace(":", "-")
    uri = storage.join(folder, file)
    if file not in present:
        raise DataError(uri, "missing annotation", "the layout names this pair, but the file is not there")
    row = read_pair(pair_id, uri, root, split, read_image)
    assert row.category is not None
    groups, mirrored = geometry_groups(row.category), mirror_keypoint_ids(row.category)
    return replace(row, geometry_groups=groups, mirror_keypoint_ids=mirrored)


def read_pair(pair_id: str, uri: str, root: str, split: str, read_image: ReadImage) -> PairRow:
    """The pair of a file of PairAnnotation. Raises DataError. root: the folder that holds JPEGImages."""
    fields = _record(uri)
    source_xy_px, target_xy_px = fields.points("src_kps"), fields.points("trg_kps")
    keypoint_id = fields.texts("kps_ids")
    probability = fields.optional("kps_probability", fields.shares)
    fields.same_length(src_kps=source_xy_px, trg_kps=target_xy_px, kps_ids=keypoint_id)
    if probability is not None:
        fields.same_length(kps_ids=keypoint_id, kps_probability=probability)
    category = fields.text("category")
    source, target = fields.text("src_imname"), fields.text("trg_imname")
    row = PairRow(
        where=uri,
        pair_id=pair_id,
        source_uri=storage.join(root, "JPEGImages", category, source),
        target_uri=storage.join(root, "JPEGImages", category, target),
        category=category,
        split=split,
        source_xy_px=source_xy_px,
        target_xy_px=target_xy_px,
        keypoint_id=keypoint_id,
        keypoint_probability=probability,
        source_box_xyxy=fields.box("src_bndbox"),
        target_box_xyxy=fields.box("trg_bndbox"),
        viewpoint_variation=_level(fields, "viewpoint_variation", 2),
        scale_variation=_level(fields, "scale_variation", 2),
        truncation=_level(fields, "truncation", 3),
        occlusion=_level(fields, "occlusion", 3),
        source_stated_wh=fields.size_of_list("src_imsize"),
        target_stated_wh=fields.size_of_list("trg_imsize"),
    )
    return _with_images(row, read_image(category, source), read_image(category, target))


def _level(fields: Fields, name: str, highest: int) -> int | None:
    """A level in 0..highest; None where it is absent or -1, as exports of labels have what is not known."""
    return None if fields.record.get(name) == -1 else fields.level(name, highest)


def _with_images(row: PairRow, source: ImageAnnotation | None, target: ImageAnnotation | None) -> PairRow:
    """The pair with all keypoints of its images, and the difference of the azimuths where both are known."""
    if source:
        row = replace(row, source_all_xy_px=source.xy_px, source_all_keypoint_id=source.keypoint_id)
    if target:
        row = replace(row, target_all_xy_px=target.xy_px, target_all_keypoint_id=target.keypoint_id)
    if source and target and source.azimuth is not None and target.azimuth is not None:
        steps = abs(source.azimuth - target.azimuth)
        row = replace(row, azimuth_difference=min(steps, _AZIMUTHS - steps))
    return row


def _record(uri: str) -> Fields:
    """The object in a JSON file. Raises DataError for another value."""
    record = read_json(uri)
    if not isinstance(record, dict):
        raise DataError(uri, "malformed JSON", f"expected an object, got {type(record).__name__}")
    return Fields(record, uri)
