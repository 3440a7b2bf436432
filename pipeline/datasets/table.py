"""Pairs of your own: a CSV or Parquet file with the columns of PAIRS, of which source_uri and target_uri are needed.

`--annotations` is the file, `--root` the folder that relative URIs start from; `--root` alone may be the file, and its
folder is then where they start. An unknown column is an error. In CSV

    source_xy_px, target_xy_px              'x,y;x,y;...'   the same keypoints in the same order
    keypoint_id                             'left_eye;nose;...'
    source_box_xyxy, target_box_xyxy        'x_min,y_min,x_max,y_max'
    seen_in_training                        true or false
    viewpoint_variation, scale_variation    0, 1 or 2
    truncation, occlusion                   0, 1, 2 or 3

and an empty cell is null. Without a pair_id, a row's id is a hash of what is in it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields
from typing import Any

import numpy as np

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.interface import DataError, DatasetOptions, PairRow, Rejected, build_or_reject
from pipeline.datasets.common.records import CsvRow, csv_rows, parquet_rows
from pipeline.io import storage
from pipeline.io.uri_field import Uri

_REQUIRED = ("source_uri", "target_uri")
_COLUMNS = tuple(field.name for field in dataclass_fields(PairRow) if field.name != "where")


@dataclass(frozen=True, kw_only=True)
class Options(DatasetOptions):
    """Which table to read."""

    annotations: Uri | None = None
    """Your own pairs, a .csv or .parquet file, path or URI."""


def pairs(options: Options) -> Iterator[PairRow | Rejected]:
    """Pairs in the order of the file."""
    file, root = options.annotations or options.root, options.image_root
    if file.endswith(".csv"):
        for row in csv_rows(file, _REQUIRED, _COLUMNS):
            yield build_or_reject(row.where, _pair_of_text, row, root)
    elif file.endswith(".parquet"):
        for fields in parquet_rows(file, _REQUIRED, _COLUMNS):
            yield build_or_reject(fields.where, _pair, fields, root)
    else:
        raise ValueError(
            f"a table is a .csv or .parquet file with one row per pair, given by --annotations; got {file}"
        )


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _points(text: str) -> list[list[float]]:
    return [_numbers(point) for point in text.split(";")]


_FROM_TEXT: dict[str, tuple[Callable[[str], Any], str]] = {
    "source_xy_px": (_points, "'x,y;x,y'"),
    "target_xy_px": (_points, "'x,y;x,y'"),
    "keypoint_id": (lambda text: text.split(";"), "'name;name'"),
    "source_box_xyxy": (_numbers, "'x_min,y_min,x_max,y_max'"),
    "target_box_xyxy": (_numbers, "'x_min,y_min,x_max,y_max'"),
    "viewpoint_variation": (int, "a whole number"),
    "scale_variation": (int, "a whole number"),
    "truncation": (int, "a whole number"),
    "occlusion": (int, "a whole number"),
    "seen_in_training": ({"true": True, "false": False}.__getitem__, "true or false"),
}


def _pair_of_text(row: CsvRow, root: str) -> PairRow:
    record = dict(row.fields().record)
    for name, (read, expected) in _FROM_TEXT.items():
        if record.get(name):
            try:
                record[name] = read(record[name])
            except (ValueError, KeyError) as error:
                detail = f"field {name}: expected {expected}, got {record[name]!r}"
                raise DataError(row.where, "wrong type", detail) from error
    return _pair(Fields(record, row.where), root)


def _pair(fields: Fields, root: str) -> PairRow:
    source_xy_px = fields.optional("source_xy_px", fields.points)
    target_xy_px = fields.optional("target_xy_px", fields.points)
    keypoint_id = fields.optional("keypoint_id", fields.texts)
    lists = {"source_xy_px": source_xy_px, "target_xy_px": target_xy_px, "keypoint_id": keypoint_id}
    fields.same_length(**{name: values for name, values in lists.items() if values is not None})
    row = PairRow(
        where=fields.where,
        pair_id=fields.optional("pair_id", fields.text) or "",
        source_uri=fields.text("source_uri"),
        target_uri=fields.text("target_uri"),
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
    )
    return replace(
        row,
        pair_id=row.pair_id or _hash(row),
        source_uri=storage.resolve(row.source_uri, root),
        target_uri=storage.resolve(row.target_uri, root),
    )


def _hash(row: PairRow) -> str:
    """The same for the same values, whichever the order of the columns and the format of the file."""
    values = [getattr(row, name) for name in _COLUMNS]
    return hashlib.sha256(json.dumps(_as_float32(values)).encode()).hexdigest()[:16]


def _as_float32(value: Any) -> Any:
    """`value` with its numbers rounded to what PAIRS holds."""
    if isinstance(value, (list, tuple)):
        return [_as_float32(part) for part in value]
    return float(np.float32(value)) if isinstance(value, float) else value
