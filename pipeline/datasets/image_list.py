"""A table of images without pairs: CSV or Parquet, each image is paired with those that look most like it.

`--annotations` is the table, `--root` the folder that relative URIs start from; `--root` alone may be the table, and
its folder is then where they start. A table is a file, .csv, .csv.gz or .parquet, or a folder of such parts, also one
with folders category=cat. Its columns are

    image_uri                               needed: path or URI of the image
    image_id                                unique, part of pair_id; without it image_uri as it is written
    category                                text or a whole number: pairs are of one, as --neighbours-across says of two
    box_xyxy                                'x_min,y_min,x_max,y_max', in Parquet a list: where the object is
    split                                   such as train

and others, which are not read. `--category-column species` names another column of categories. A row whose category is
empty is of none, and such images are paired with one another. How pairs are chosen: docs/pseudo-labels.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.interface import (
    DataError,
    Rejected,
    UnpairedImage,
    UnpairedOptions,
    build_or_reject,
)
from pipeline.datasets.common.records import CsvRow, TableFile, csv_rows, parquet_rows, table_files
from pipeline.io import storage
from pipeline.io.uri_field import Uri

_URI = "image_uri"
_OPTIONAL = ("image_id", "box_xyxy", "split")


@dataclass(frozen=True, kw_only=True)
class Options(UnpairedOptions):
    """Options of a table of images."""

    annotations: Uri | None = None
    """The images, a .csv or .parquet file or a folder of them, path or URI."""
    category_column: str = "category"
    """Column whose values are the categories; one that is named here must be in the table."""


def pairs(options: Options) -> Iterator[UnpairedImage | Rejected]:
    """Images in the order of the files and rows."""
    what = "a list of images is a .csv or .parquet file with one row per image"
    files = table_files(options.annotations or options.root, what, options.out)
    for file in files:
        for row in _rows(file, options.category_column, is_part=len(files) > 1):
            yield build_or_reject(row.where, _image, row, file, options)


def _rows(file: TableFile, category: str, *, is_part: bool) -> Iterator[CsvRow | Fields]:
    needed = [name for name in (_URI, *((category,) if category != "category" else ())) if name not in file.partition]
    if file.is_csv:
        return csv_rows(file.uri, needed, may_be_empty=is_part)
    return parquet_rows(file.uri, needed, optional=(*_OPTIONAL, category))


def _image(row: CsvRow | Fields, file: TableFile, options: Options) -> UnpairedImage:
    of_row = row.fields() if isinstance(row, CsvRow) else row
    fields = Fields({**of_row.record, **file.partition}, row.where)
    if isinstance(fields.record.get("box_xyxy"), str):
        fields = Fields({**fields.record, "box_xyxy": _numbers(fields)}, row.where)
    uri = fields.text(_URI)
    return UnpairedImage(
        where=row.where,
        image_id=fields.optional("image_id", fields.identity) or uri,
        uri=storage.resolve(uri, options.image_root),
        category=fields.optional(options.category_column, fields.identity),
        box_xyxy=fields.optional("box_xyxy", fields.box),
        split=fields.optional("split", fields.text),
    )


def _numbers(fields: Fields) -> list[float] | None:
    """The box of a CSV cell, None for an empty cell."""
    text = fields.record["box_xyxy"]
    try:
        return [float(number) for number in text.strip("[]").split(",")] if text else None
    except ValueError as error:
        detail = f"field box_xyxy: expected 'x_min,y_min,x_max,y_max', got {text[:60]!r}"
        raise DataError(fields.where, "wrong type", detail) from error
