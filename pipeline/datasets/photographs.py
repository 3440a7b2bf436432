"""Photographs in Parquet, of anything: the bytes of an image file in each row and, optionally, an id.

`--root` is one such file or a folder of them. The bytes are in column jpeg, jpg, png, webp, image or img, as they are
or as {bytes, path}, which is how img2dataset and Hugging Face store them; the id is in image_id or key. Other columns
are not read, and rows that img2dataset could not download are left out and counted. Two photographs after one another
make a pair without keypoints, and an odd last one makes one with the first: training by warps and by distillation needs
images, each about as often as any other. They are written once each, byte for byte, to the folder OUT_images/ next to
the manifest.

For a folder of image files use `--dataset folder --pairing sequential`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.inline_images import IMAGE_COLUMNS, InlineImages, parquet_files
from pipeline.datasets.common.interface import (
    DataError,
    DatasetOptions,
    PairRow,
    Rejected,
    build_or_reject,
    map_in_threads,
)
from pipeline.datasets.common.records import parquet_rows
from pipeline.io import storage

_IDS = ("image_id", "key")
"""Columns that may hold the image's id; the first that is not empty is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Photograph:
    where: str
    image_id: str
    uri: str


def pairs(options: DatasetOptions) -> Iterator[PairRow | Rejected]:
    """Rejected photographs first, then pairs in the order of files and rows; pair_id is made of the two image ids.

    A photograph without an id is named after its file and row, such as images-1.
    """
    files = parquet_files(options.root)
    if not files:
        raise FileNotFoundError(
            f"{options.root} has no .parquet file; image files are read by --dataset folder --pairing sequential"
        )
    storage.refuse_overwrite(options.out, *files)
    images = InlineImages(options.inline_images)
    photographs: list[_Photograph] = []
    for photograph in map_in_threads(_write, _read(files, images)):
        if isinstance(photograph, Rejected):
            yield photograph
        else:
            photographs.append(photograph)
    if len(photographs) < 2:
        raise ValueError(f"{options.root} has {len(photographs)} photographs that can be used; a pair needs two")
    circle = [*photographs, photographs[0]]
    for source, target in zip(circle[::2], circle[1::2], strict=False):  # for an even number the first is left over
        yield PairRow(
            where=source.where,
            pair_id=f"{source.image_id}:{target.image_id}",
            source_uri=source.uri,
            target_uri=target.uri,
        )


def _read(files: list[str], images: InlineImages) -> Iterator[tuple[_Photograph, bytes] | Rejected]:
    for file in files:
        others = {IMAGE_COLUMNS[0]: IMAGE_COLUMNS[1:]}
        rows = parquet_rows(file, IMAGE_COLUMNS[:1], optional=(*IMAGE_COLUMNS, *_IDS, "status"), instead=others)
        for number, row in enumerate(rows, start=1):
            yield build_or_reject(row.where, _photograph, row, f"{PurePosixPath(file).stem}-{number}", images)


def _photograph(row: Fields, row_id: str, images: InlineImages) -> tuple[_Photograph, bytes]:
    name = next(name for name in IMAGE_COLUMNS if name in row.record)
    image = row.record[name]
    if image is None and row.record.get("status", "success") != "success":
        detail = f"field {name}: there is no image, field status is {row.record['status']!r}"
        raise DataError(row.where, "image that was not downloaded", detail, by_design=True)
    if isinstance(image, Mapping):
        if image.get("bytes") is None and image.get("path"):
            detail = f"field {name}: the table has no bytes, only the path {image['path']!r}"
            raise DataError(row.where, "image outside the table", detail)
        row = Fields({**row.record, name: image.get("bytes")}, row.where)
    data = row.data(name)
    ids = (row.optional(name, row.identity) for name in _IDS)
    image_id = next((value for value in ids if value), row_id)
    return _Photograph(where=row.where, image_id=image_id, uri=images.add(image_id, row.where)), data


def _write(item: tuple[_Photograph, bytes] | Rejected) -> _Photograph | Rejected:
    """Write the photograph's bytes to its file, and drop them, since those of a whole data set do not fit in memory."""
    if isinstance(item, Rejected):
        return item
    photograph, data = item
    storage.write_bytes(photograph.uri, data)
    return photograph
