"""Pairs of your own: CSV or Parquet with the columns of PAIRS, of which source_uri and target_uri are needed.

`--annotations` is the table, `--root` the folder that relative URIs start from; `--root` alone may be the table, and
its folder is then where they start. A table is a file, .csv, .csv.gz or .parquet, or a folder of such parts as Spark,
DuckDB and Daft write it, also one with folders category=cat. An unknown column is an error; the index of pandas is left
out. In CSV

    source_xy_px, target_xy_px              'x,y;x,y;...'   the same keypoints in the same order
    keypoint_id                             'left_eye;nose;...'
    source_box_xyxy, target_box_xyxy        'x_min,y_min,x_max,y_max'
    seen_in_training                        true or false
    viewpoint_variation, scale_variation    0, 1 or 2
    truncation, occlusion                   0, 1, 2 or 3
    keypoint_probability                    '0.9,0.8', one for each keypoint
    source_visibility, target_visibility    '1;2;2', one for each keypoint: 1 hidden, 2 visible
    SIDE_all_xy_px, SIDE_all_keypoint_id    as the keypoints and their ids
    target_valid_xy_px                      '[[[x, y], [x, y]], [[x, y]]]', a list of points for each keypoint
    mirror_keypoint_ids, geometry_groups    '[["left_eye", "right_eye"]]', lists of ids
    SIDE_other_boxes_xyxy                   '[[x_min, y_min, x_max, y_max]]', a list of boxes
    azimuth_difference                      0 to 4
    mirrored                                true or false
    flow_format                             flo

and an empty cell is null. URIs of flow and masks start from the same folder as those of images. Lists may also be
written as JSON, Python, pandas and DuckDB write them, [[x, y], [x, y]]. Whole numbers may be written as floats, ids and
categories may be whole numbers or UUIDs, true and false 1 and 0. In Parquet an image may come inline, source_image and
target_image, as bytes or {bytes, path}; it is written to the folder OUT_images/ next to the manifest.

A keypoint that is missing in one of the images, -1,-1 or nan,nan or null, is left out on both sides and counted; one
that is left of or above its image otherwise is an error. Without a pair_id, a row's id is a hash of what is in it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.interface import (
    DataError,
    DatasetOptions,
    Note,
    PairRow,
    Rejected,
    build_or_reject,
)
from pipeline.datasets.common.nested_text import is_list, read_list
from pipeline.datasets.common.records import CsvRow, TableFile, csv_rows, parquet_rows, table_files
from pipeline.io import storage
from pipeline.io.manifest import INLINE_COLUMNS
from pipeline.io.uri_field import Uri
from schemas.pairs import FLOW_FORMATS, PAIRS

_COLUMNS = tuple(field.name for field in dataclass_fields(PairRow) if field.name in PAIRS.names)
_FIRST_COLUMNS = (
    *("pair_id", "source_uri", "target_uri", "category", "dataset", "split"),
    *("source_xy_px", "target_xy_px", "keypoint_id", "source_box_xyxy", "target_box_xyxy"),
    *("viewpoint_variation", "scale_variation", "truncation", "occlusion", "seen_in_training"),
)
"""The columns of PAIRS 2. An id that is a hash is of these, null or not, and of those later ones that are not null."""
_SIDES = ("source", "target")
_INSTEAD = {f"{side}_uri": (f"{side}_image",) for side in _SIDES}
_REQUIRED = tuple(_INSTEAD)
_MISSING = "keypoint that is missing in one of its images (-1,-1 or nan,nan or null)"
_MISSING_IN_ALL = "keypoint of SIDE_all_xy_px that is missing (-1,-1 or nan,nan or null)"
_EDGE_PX = -0.5
"""Coordinate of an image's left and top edge: pixels reach half a pixel around their centres."""


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions):
    """Options of a table of pairs."""

    annotations: Uri | None = None
    """Your own pairs, a .csv or .parquet file or a folder of them, path or URI."""


def pairs(options: Options) -> Iterator[PairRow | Rejected | Note]:
    """Pairs in the order of the files and rows, and a note after each that lost keypoints."""
    what = "a table is a .csv or .parquet file with one row per pair"
    files = table_files(options.annotations or options.root, what, options.out)
    for file in files:
        for row in _rows(file, is_part=len(files) > 1):
            pair = build_or_reject(row.where, _pair, row, file.partition, options)
            if isinstance(pair, Rejected):
                yield pair
            else:
                yield from pair


def _rows(file: TableFile, *, is_part: bool) -> Iterator[CsvRow | Fields]:
    required = [name for name in _REQUIRED if name not in file.partition]
    known = (*_COLUMNS, *INLINE_COLUMNS)
    unknown = file.partition.keys() - set(known)
    if unknown:
        raise ValueError(f"{file.uri}: unknown column {', '.join(sorted(unknown))}; known are: {', '.join(known)}")
    if file.is_csv:
        return csv_rows(file.uri, required, known, may_be_empty=is_part)
    return parquet_rows(file.uri, required, known, instead=_INSTEAD)


def _number(text: str | None) -> float:
    return float("nan") if text is None or text.strip().lower() in ("", "null", "none", "na") else float(text)


def _numbers(text: str) -> list[Any]:
    return _as_numbers(read_list(text) if is_list(text) else text.split(","))


def _points(text: str) -> list[Any]:
    return _as_numbers(read_list(text) if is_list(text) else [point.split(",") for point in text.split(";")])


def _as_numbers(value: Any) -> Any:
    return [_as_numbers(part) for part in value] if isinstance(value, list) else _number(value)


def _texts(text: str) -> list[Any]:
    try:
        return read_list(text)
    except ValueError:
        return text.split(";")


def _levels(text: str) -> list[Any]:
    return [_whole(part) for part in (read_list(text) if is_list(text) else text.split(";"))]


def _nested_numbers(text: str) -> list[Any]:
    return _as_numbers(read_list(text))


def _whole(text: str) -> int:
    number = float(text)
    if not number.is_integer():
        raise ValueError("not whole")
    return int(number)


_BOOLEANS = {"true": True, "t": True, "1": True, "1.0": True, "false": False, "f": False, "0": False, "0.0": False}
_FROM_TEXT: dict[str, tuple[Callable[[str], Any], str]] = {
    "source_xy_px": (_points, "'x,y;x,y'"),
    "target_xy_px": (_points, "'x,y;x,y'"),
    "keypoint_id": (_texts, "'name;name'"),
    "source_box_xyxy": (_numbers, "'x_min,y_min,x_max,y_max'"),
    "target_box_xyxy": (_numbers, "'x_min,y_min,x_max,y_max'"),
    "viewpoint_variation": (_whole, "a whole number"),
    "scale_variation": (_whole, "a whole number"),
    "truncation": (_whole, "a whole number"),
    "occlusion": (_whole, "a whole number"),
    "seen_in_training": (lambda text: _BOOLEANS[text.lower()], "true or false"),
    "keypoint_probability": (_numbers, "'0.9,0.8'"),
    "source_visibility": (_levels, "'1;2'"),
    "target_visibility": (_levels, "'1;2'"),
    "source_all_xy_px": (_points, "'x,y;x,y'"),
    "source_all_keypoint_id": (_texts, "'name;name'"),
    "target_all_xy_px": (_points, "'x,y;x,y'"),
    "target_all_keypoint_id": (_texts, "'name;name'"),
    "target_valid_xy_px": (_nested_numbers, "'[[[x, y], [x, y]], [[x, y]]]'"),
    "mirror_keypoint_ids": (read_list, """'[["left", "right"]]'"""),
    "geometry_groups": (read_list, """'[["name", "name"]]'"""),
    "source_other_boxes_xyxy": (_nested_numbers, "'[[x_min, y_min, x_max, y_max]]'"),
    "target_other_boxes_xyxy": (_nested_numbers, "'[[x_min, y_min, x_max, y_max]]'"),
    "azimuth_difference": (_whole, "a whole number"),
    "mirrored": (lambda text: _BOOLEANS[text.lower()], "true or false"),
}
_TEXTS = (
    *("pair_id", "source_uri", "target_uri", "category", "target_category", "level", "dataset", "split"),
    *("source_flow_uri", "target_flow_uri", "flow_format", "source_mask_uri", "target_mask_uri"),
)
_URIS = tuple(f"{side}_{what}_uri" for side in _SIDES for what in ("flow", "mask"))
_LISTS_OF_IDS = ("keypoint_id", "source_all_keypoint_id", "target_all_keypoint_id")
_IDS = (*_LISTS_OF_IDS, "mirror_keypoint_ids", "geometry_groups")
_BOOLEAN_COLUMNS = ("seen_in_training", "mirrored")


def _values(fields: Fields, partition: Mapping[str, str | None]) -> dict[str, Any]:
    """The row with its values as PAIRS has them, where they are the same values. Raises DataError for other text."""
    record = {name: _plain(value) for name, value in (*fields.record.items(), *partition.items())}
    for name, (read, expected) in _FROM_TEXT.items():
        value = record.get(name)
        if isinstance(value, str) and value:
            try:
                is_null = name not in _LISTS_OF_IDS and value.strip().lower() in ("nan", "null", "none")
                record[name] = None if is_null else read(value)
            except (ValueError, KeyError) as error:
                why = f" ({error})" if is_list(value) and error.args else ""
                detail = f"field {name}: expected {expected}, got {_short(value)}{why}"
                raise DataError(fields.where, "wrong type", detail) from error
    if isinstance(record.get("pair_id"), bytes) and len(record["pair_id"]) == 16:  # a UUID as polars writes it
        record["pair_id"] = str(UUID(bytes=record["pair_id"]))
    for name in _TEXTS:
        if name in record:
            record[name] = _number_as_text(record[name])
    for name in _IDS:
        if isinstance(record.get(name), list):
            record[name] = _numbers_as_texts(record[name])
    for name in _BOOLEAN_COLUMNS:
        if record.get(name) in (0, 1):
            record[name] = bool(record[name])
    return record


def _plain(value: Any) -> Any:
    """A value of Parquet as JSON has it: NaN is null, and what is whole is a whole number; not within lists."""
    if isinstance(value, list):
        return _without_decimals(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, float) and value != value:
        return None
    is_whole = isinstance(value, (float, Decimal)) and value % 1 == 0
    return int(value) if is_whole else _without_decimals(value)


def _without_decimals(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_decimals(part) for part in value]
    return float(value) if isinstance(value, Decimal) else value


def _numbers_as_texts(value: Any) -> Any:
    return [_numbers_as_texts(part) for part in value] if isinstance(value, list) else _number_as_text(value)


def _number_as_text(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return str(int(value)) if is_whole and not isinstance(value, bool) else value


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:57]!r}..."


def _pair(row: CsvRow | Fields, partition: Mapping[str, str | None], options: Options) -> list[PairRow | Note]:
    """The pair of a row, and notes if keypoints are left out."""
    record = _values(row.fields() if isinstance(row, CsvRow) else row, partition)
    shared = ("keypoint_id", "keypoint_probability", "source_visibility", "target_visibility", "target_valid_xy_px")
    n_missing = _drop_missing_points(record, row.where, ("source_xy_px", "target_xy_px"), shared)
    n_missing_in_all = sum(
        _drop_missing_points(record, row.where, (f"{side}_all_xy_px",), (f"{side}_all_keypoint_id",)) for side in _SIDES
    )
    notes = ((_MISSING, n_missing), (_MISSING_IN_ALL, n_missing_in_all))
    pair = _pair_of_values(Fields(record, row.where), options)
    return [pair, *(Note(where=row.where, what=what, count=count) for what, count in notes if count)]


def _drop_missing_points(
    record: dict[str, Any], where: str, point_columns: Sequence[str], other_columns: Sequence[str]
) -> int:
    """Remove keypoints that are missing in one of the images from all these lists; returns their number.

    point_columns: lists of points of the same keypoints. other_columns: lists with one value for each of them.
    Raises DataError for lists of different lengths, and for a point that is outside its image and not missing.
    """
    points = {name: record[name] for name in point_columns if isinstance(record.get(name), list)}
    others = {name: record[name] for name in other_columns if isinstance(record.get(name), list)}
    Fields(record, where).same_length(**points, **others)
    missing = {number for values in points.values() for number, point in enumerate(values) if _is_missing(point)}
    for name, values in points.items():
        for number, point in enumerate(values):
            if number not in missing:
                _refuse_negative(where, f"field {name}, point {number}", point)
    for number, valid in enumerate(others.get("target_valid_xy_px", [])):
        if number not in missing:
            for point in valid if isinstance(valid, list) else []:
                _refuse_negative(where, f"field target_valid_xy_px, keypoint {number}", point)
    for name, values in (points | others).items():
        record[name] = [value for number, value in enumerate(values) if number not in missing]
    return len(missing)


def _refuse_negative(where: str, what: str, point: Any) -> None:
    if _is_negative(point):
        detail = f"{what} is {point}; a point that is missing is -1,-1 or nan,nan or null"
        raise DataError(where, "point left of or above its image", detail)


def _is_missing(point: Any) -> bool:
    if not (isinstance(point, list) and len(point) == 2):
        return point is None or point != point
    return all(number is None or number != number for number in point) or point == [-1, -1]


def _is_negative(point: Any) -> bool:
    numbers = [number for number in point if isinstance(number, (int, float))] if isinstance(point, list) else []
    return any(number < _EDGE_PX for number in numbers)


def _image(fields: Fields, side: str) -> tuple[str, bytes | None]:
    """One side's image: its URI, or its name and its bytes if it comes inline."""
    image: Any = fields.record.get(f"{side}_image")
    path = None
    if isinstance(image, Mapping):
        image, path = image.get("bytes"), image.get("path")
    if image in (None, ""):
        return path if path and not fields.has(f"{side}_uri") else fields.text(f"{side}_uri"), None
    data = Fields({f"{side}_image": image}, fields.where).data(f"{side}_image")
    return f"{hashlib.sha256(data).hexdigest()[:32]}.jpg", data


def _written(name: str, data: bytes | None, options: Options) -> str:
    """The absolute URI of an image, which is written if it came inline."""
    if data is None:
        return storage.resolve(name, options.image_root)
    uri = storage.join(options.inline_images, name)
    storage.write_if_absent(uri, data)
    return uri


def _pair_of_values(fields: Fields, options: Options) -> PairRow:
    source_xy_px = fields.optional("source_xy_px", fields.points)
    target_xy_px = fields.optional("target_xy_px", fields.points)
    keypoint_id = fields.optional("keypoint_id", fields.texts)
    source, target = (_image(fields, side) for side in _SIDES)
    row = PairRow(
        where=fields.where,
        pair_id=fields.optional("pair_id", fields.text) or "",
        source_uri=source[0],
        target_uri=target[0],
        category=fields.optional("category", fields.text),
        dataset=fields.optional("dataset", fields.text),
        split=fields.optional("split", fields.text),
        source_xy_px=source_xy_px,
        target_xy_px=target_xy_px,
        keypoint_id=keypoint_id,
        source_box_xyxy=fields.optional("source_box_xyxy", fields.box),
        target_box_xyxy=fields.optional("target_box_xyxy", fields.box),
        viewpoint_variation=fields.level("viewpoint_variation", 2),
        scale_variation=fields.level("scale_variation", 2),
        truncation=fields.level("truncation", 3),
        occlusion=fields.level("occlusion", 3),
        seen_in_training=fields.optional("seen_in_training", fields.boolean),
        **_later_columns(fields),
    )
    absolute: dict[str, Any] = {
        name: storage.resolve(uri, options.image_root) for name in _URIS if (uri := getattr(row, name))
    }
    return replace(
        row,
        pair_id=row.pair_id or _hash(row),
        source_uri=_written(*source, options),
        target_uri=_written(*target, options),
        **absolute,
    )


def _later_columns(fields: Fields) -> dict[str, Any]:
    """The columns that PAIRS 2 lacks. Raises DataError for a value without what it is about."""
    texts = {name: fields.optional(name, fields.text) for name in ("target_category", "level", "flow_format", *_URIS)}
    for needed, names in {
        "source_xy_px": ("source_visibility", "keypoint_probability"),
        "target_xy_px": ("target_visibility", "target_valid_xy_px"),
        "flow_format": ("source_flow_uri", "target_flow_uri"),
        **{f"{side}_all_keypoint_id": (f"{side}_all_xy_px",) for side in _SIDES},
        **{f"{side}_all_xy_px": (f"{side}_all_keypoint_id",) for side in _SIDES},
    }.items():
        for name in names:
            if fields.has(name) and not fields.has(needed):
                raise DataError(fields.where, "missing field", f"field {name} is given, but not {needed}")
    if texts["flow_format"] not in (None, *FLOW_FORMATS):
        detail = f"field flow_format: expected {' or '.join(FLOW_FORMATS)}, got {texts['flow_format']!r}"
        raise DataError(fields.where, "wrong value", detail)
    mirrors = fields.optional("mirror_keypoint_ids", fields.lists_of_texts)
    if any(len(ids) != 2 for ids in mirrors or []):
        detail = f"field mirror_keypoint_ids: expected [left, right] each, got {_short(str(mirrors))}"
        raise DataError(fields.where, "wrong value", detail)
    return {
        **texts,
        "keypoint_probability": fields.optional("keypoint_probability", fields.shares),
        **{f"{side}_visibility": _visibility(fields, f"{side}_visibility") for side in _SIDES},
        **{f"{side}_all_xy_px": fields.optional(f"{side}_all_xy_px", fields.points) for side in _SIDES},
        **{f"{side}_all_keypoint_id": fields.optional(f"{side}_all_keypoint_id", fields.texts) for side in _SIDES},
        "mirror_keypoint_ids": [(left, right) for left, right in mirrors] if mirrors is not None else None,
        "geometry_groups": fields.optional("geometry_groups", fields.lists_of_texts),
        "target_valid_xy_px": fields.optional("target_valid_xy_px", fields.lists_of_points),
        **{f"{side}_other_boxes_xyxy": fields.optional(f"{side}_other_boxes_xyxy", fields.boxes) for side in _SIDES},
        "azimuth_difference": fields.level("azimuth_difference", 4),
        "mirrored": fields.optional("mirrored", fields.boolean),
    }


def _visibility(fields: Fields, name: str) -> list[int] | None:
    return fields.levels(name, 1, 2) if fields.has(name) else None


def _hash(row: PairRow) -> str:
    """An id that is a hash of the row's values; it depends neither on the order of columns nor on the file's format."""
    values: list[Any] = [getattr(row, name) for name in _FIRST_COLUMNS]
    later = [name for name in _COLUMNS if name not in _FIRST_COLUMNS]
    values += [[name, getattr(row, name)] for name in sorted(later) if getattr(row, name) is not None]
    return hashlib.sha256(json.dumps(_as_float32(values)).encode()).hexdigest()[:16]


def _as_float32(value: Any) -> Any:
    """`value` with its numbers rounded to the precision of PAIRS."""
    if isinstance(value, (list, tuple)):
        return [_as_float32(part) for part in value]
    return float(np.float32(value)) if isinstance(value, float) else value
