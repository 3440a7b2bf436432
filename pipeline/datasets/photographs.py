"""Photographs in Parquet, of anything: jpeg (the bytes of an image file) and, optionally, image_id.

`--root` is one such file or a folder of them; other columns are not read. Two photographs after one another make a pair
without keypoints, and an odd last one makes one with the first: training by warps and by distillation needs images,
each about as often as any other. They are written once each, byte for byte, to a folder beside the manifest,
OUT_images/.

For a folder of image files use `--dataset folder --pairing sequential`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.inline_images import InlineImages, parquet_files
from pipeline.datasets.common.interface import DatasetOptions, PairRow, Rejected, build_or_reject, map_in_threads
from pipeline.datasets.common.records import parquet_rows
from pipeline.io import storage


@dataclass(frozen=True, slots=True, kw_only=True)
class _Photograph:
    where: str
    image_id: str
    uri: str


def pairs(options: DatasetOptions) -> Iterator[PairRow | Rejected]:
    """Rejected photographs first, then pairs in the order of files and rows; pair_id is made of the two image ids.

    A photograph without an image_id is called after its file and row, images-1.
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
    for source, target in zip(circle[::2], circle[1::2], strict=False):  # of an even number, the first is left over
        yield PairRow(
            where=source.where,
            pair_id=f"{source.image_id}:{target.image_id}",
            source_uri=source.uri,
            target_uri=target.uri,
        )


def _read(files: list[str], images: InlineImages) -> Iterator[tuple[_Photograph, bytes] | Rejected]:
    for file in files:
        for number, row in enumerate(parquet_rows(file, ("jpeg",), optional=("image_id",)), start=1):
            yield build_or_reject(row.where, _photograph, row, f"{PurePosixPath(file).stem}-{number}", images)


def _photograph(row: Fields, row_id: str, images: InlineImages) -> tuple[_Photograph, bytes]:
    image_id = row.optional("image_id", row.text) or row_id
    data = row.data("jpeg")
    return _Photograph(where=row.where, image_id=image_id, uri=images.add(image_id, row.where)), data


def _write(item: tuple[_Photograph, bytes] | Rejected) -> _Photograph | Rejected:
    """Write the photograph's bytes to its file, and drop them: all of a data set's would not fit in memory."""
    if isinstance(item, Rejected):
        return item
    photograph, data = item
    storage.write_bytes(photograph.uri, data)
    return photograph
