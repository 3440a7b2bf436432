"""PF-PASCAL: lists of pairs as CSV, keypoints in the list (test, val) or in Annotations/<class>/<name>.mat (training).

The lists go by two names each, trn_pairs.csv or train_pairs_pf_pascal.csv and so on; the images are in JPEGImages/.
The lists may be next to JPEGImages/, next to PF-dataset-PASCAL/ that holds it, or in image_pairs/ there; `--root` may
be any of these folders or the one that holds them. Boxes come from Annotations/; where the list has the keypoints, a
box that cannot be read is null. Coordinates belong to images whose long side is 300 and are scaled where the images
here are larger. Training rows with flip = 1 mean both images mirrored: a manifest refers to image files, so those rows
are left out and counted. https://www.di.ens.fr/willow/research/proposalflow
"""

import functools
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.interface import (
    Box,
    DataError,
    PairRow,
    Points,
    Rejected,
    SplitOptions,
    build_or_reject,
    choose_split,
    map_in_threads,
)
from pipeline.datasets.common.layout import folders_near
from pipeline.datasets.common.mat import NumberedPoints, read_mat, visible_points
from pipeline.datasets.common.records import CsvRow, csv_rows
from pipeline.io import storage
from pipeline.io.uri_field import Uri

_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The `class` column counts from 1."""

_ANNOTATED_LONG_SIDE_PX = 300

_LIST_NAME = re.compile(r"(trn|train|val|test)_pairs(_pf_pascal)?\.csv")
_OUTER, _INNER = "pf[-_]?pascal", "pf[-_]dataset[-_]pascal|image_pairs|jpegimages|annotations"
_IMAGE_COLUMNS = ("source_image", "target_image")


@dataclass(frozen=True, kw_only=True)
class Options(SplitOptions):
    """Options of the data set PF-PASCAL."""

    training_list: Uri | None = None
    """The list of training pairs, path or URI. Pairs of the same two images are flagged as seen in training."""


def pairs(options: Options) -> Iterator[PairRow | Rejected]:
    """Pairs in the order of the list; pair_id begins with the row's number, since a list may name a pair twice."""
    folders = list(folders_near(options.root, _OUTER, _INNER))
    lists = next(filter(None, map(_lists, folders)), None)
    if lists is None:
        raise FileNotFoundError(
            f"{options.root} has no list of pairs such as test_pairs.csv or test_pairs_pf_pascal.csv, nor has a "
            "folder image_pairs or PF-dataset-PASCAL in it: is --root PF-PASCAL?"
        )
    split = choose_split(options.split and _split_name(options.split), lists, options.root)
    folder = next((folder for folder in folders if "JPEGImages" in storage.folder_names(folder)), options.root)
    image = functools.cache(functools.partial(_image, folder))
    trained_on = _trained_on(options.training_list) if options.training_list else None

    def build(numbered_row: tuple[int, CsvRow]) -> PairRow | Rejected:
        number, row = numbered_row
        return build_or_reject(row.where, _pair, number, row, split, image, trained_on)

    yield from map_in_threads(build, enumerate(csv_rows(lists[split], (*_IMAGE_COLUMNS, "class")), start=1))


def _lists(folder: str) -> dict[str, str]:
    """The lists of pairs in a folder, by split."""
    uris = storage.list_files(folder, ".csv")
    return {_split_name(match[1]): uri for uri in uris if (match := _LIST_NAME.fullmatch(PurePosixPath(uri).name))}


def _split_name(name: str) -> str:
    return "trn" if name == "train" else name


@dataclass(frozen=True)
class _Image:
    """One image with its annotation, in this image's pixels."""

    uri: str
    scale: float
    """Factor from the published coordinates to this image's pixels."""
    points: NumberedPoints
    """The visible keypoints; empty without an annotation."""
    box: Box | None
    """The object's box; None without an annotation."""


def _pair(
    number: int,
    row: CsvRow,
    split: str,
    image: Callable[[str, str, bool], _Image],
    trained_on: set[frozenset[str]] | None,
) -> PairRow | Rejected:
    fields = row.fields()
    category = _category(fields)
    source_name, target_name = (PurePosixPath(fields.text(name)).name for name in _IMAGE_COLUMNS)
    pair_id = f"{number:04d}-{PurePosixPath(source_name).stem}-{PurePosixPath(target_name).stem}:{category}"
    if fields.has("flip") and fields.number("flip"):
        return Rejected(
            pair=pair_id,
            where=row.where,
            reason="mirrored training row",
            detail="flip = 1 means both images mirrored, and a manifest refers to image files as they are",
            by_design=True,
        )
    listed = "XA" in row.header
    source, target = image(category, source_name, listed), image(category, target_name, listed)
    if listed:
        keypoint_id = None
        source_xy_px, target_xy_px = _listed_points(fields, source.scale, target.scale)
    else:
        keypoint_id = [k for k in source.points if k in target.points]
        source_xy_px = [source.points[k] for k in keypoint_id]
        target_xy_px = [target.points[k] for k in keypoint_id]
    return PairRow(
        where=row.where,
        pair_id=pair_id,
        source_uri=source.uri,
        target_uri=target.uri,
        category=category,
        split=split,
        source_xy_px=source_xy_px,
        target_xy_px=target_xy_px,
        keypoint_id=keypoint_id,
        source_box_xyxy=source.box,
        target_box_xyxy=target.box,
        seen_in_training=None if trained_on is None else frozenset((source_name, target_name)) in trained_on,
    )


def _category(fields: Fields) -> str:
    number = fields.number("class")
    if number not in range(1, len(_CLASSES) + 1):
        detail = f"field class: expected a number in 1..{len(_CLASSES)}, got {number:g}"
        raise DataError(fields.where, "wrong value", detail)
    return _CLASSES[int(number) - 1]


def _listed_points(fields: Fields, source_scale: float, target_scale: float) -> tuple[Points, Points]:
    columns = {name: fields.numbers(name) for name in ("XA", "YA", "XB", "YB")}
    fields.same_length(**columns)
    xa, ya, xb, yb = columns.values()
    source_xy_px = [(x * source_scale, y * source_scale) for x, y in zip(xa, ya, strict=True)]
    target_xy_px = [(x * target_scale, y * target_scale) for x, y in zip(xb, yb, strict=True)]
    return source_xy_px, target_xy_px


def _image(folder: str, category: str, name: str, listed: bool) -> _Image:
    """listed: the list has the keypoints, so that without a readable annotation only the box is missing."""
    uri = storage.join(folder, "JPEGImages", name)
    scale = max(1.0, _long_side_px(uri) / _ANNOTATED_LONG_SIDE_PX)
    try:
        points, box = _read_mat(storage.join(folder, "Annotations", category, f"{PurePosixPath(name).stem}.mat"))
    except DataError:
        if not listed:
            raise
        return _Image(uri, scale, {}, None)
    x_min, y_min, x_max, y_max = box
    return _Image(
        uri,
        scale,
        {number: (x * scale, y * scale) for number, (x, y) in points.items()},
        (x_min * scale, y_min * scale, x_max * scale, y_max * scale),
    )


def _long_side_px(uri: str) -> int:
    try:
        with Image.open(io.BytesIO(storage.read_bytes(uri))) as image:
            return max(image.size)
    except FileNotFoundError as error:
        raise DataError(uri, "missing image", "the list names it, but the file is not there") from error
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(uri, "unreadable image", str(error)) from error


def _read_mat(uri: str) -> tuple[NumberedPoints, Box]:
    """The visible keypoints and the box."""
    content = read_mat(uri, ("kps", "bbox"))
    box = Fields({"bbox": np.ravel(np.asarray(content.get("bbox"))).tolist()}, uri).box("bbox")
    return visible_points(content.get("kps"), uri, "kps"), box


def _trained_on(training_list: str) -> set[frozenset[str]]:
    """The pairs of images of a training list, each as a set of two, so that their order does not matter."""
    rows = (row.fields() for row in csv_rows(training_list, _IMAGE_COLUMNS))
    return {frozenset(PurePosixPath(fields.text(name)).name for name in _IMAGE_COLUMNS) for fields in rows}
