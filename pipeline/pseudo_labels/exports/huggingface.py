"""Labels as a folder that `datasets.load_dataset` opens, and that can be uploaded to the Hugging Face hub as it is.

    data/<split>-<number>.parquet   rows of pairs, in shards; features image, list and string
    README.md                       the data card, with the configuration of the data set in front

Images are in the rows, which repeats an image in each of its pairs, or by reference: rows hold their paths and URIs,
and the data set is of use only where these lead somewhere. Splits are train, validation, test and whatever else the
pairs say; a pair without one is in train.
"""

from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.io.image_size import image_size_of, read_image_size
from pipeline.io.images import ImageError, fetch_image
from pipeline.pseudo_labels.data_card import CARD, data_card
from pipeline.pseudo_labels.exports.exported import Exported, export_rows
from pipeline.pseudo_labels.exports.folder import new_folder
from pipeline.pseudo_labels.exports.image_files import image_key, safe_name
from schemas.failures import Failure
from schemas.pairs import PAIRS

Images = Literal["inline", "reference"]

SHARD_BYTES = 2**29
"""A shard that has become larger is closed, and the next one begun."""
_ROW_GROUP_BYTES = 2**25
_ROW_GROUP_ROWS = 100
"""Few, as the hub's viewer reads a row group at a time."""
_SPLITS = {"trn": "train", "val": "validation"}
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_KEPT = (
    *("pair_id", "dataset", "category", "target_category"),
    *("source_xy_px", "target_xy_px", "keypoint_id", "keypoint_probability", "source_box_xyxy", "target_box_xyxy"),
)
_SCHEMA = pa.schema(
    [("source_image", _IMAGE), ("target_image", _IMAGE), *((name, PAIRS.field(name).type) for name in _KEPT)]
)


def export_huggingface(
    tables: Iterable[pa.Table],
    out: str,
    *,
    provenance: Mapping[str, Any],
    images: Images = "inline",
    image_root: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Exported:
    """Write the folder `out`, which must be new or empty; the counts of what is in it.

    tables: PAIRS rows with inline images. image_root: the folder or URI that relative image URIs are below.
    Raises ValueError if no pair can be exported, and as new_folder does.
    """
    exported = Exported()
    with new_folder(out) as folder:
        (folder / "data").mkdir()
        pictures = _Pictures(images, image_root)
        with closing(_Shards(folder / "data", shard_bytes)) as shards:

            def write(row: dict[str, Any]) -> None:
                both = {f"{side}_image": pictures.read(row, side) for side in ("source", "target")}
                shards.write(_split(row["split"]), {name: row[name] for name in _KEPT} | both)

            export_rows(tables, exported, write)
        exported.notes = _notes(images)
        card = data_card("Parquet", exported, provenance)
        (folder / CARD).write_text("\n".join([*_front_matter(shards.splits), "", card]), encoding="utf-8")
    return exported


class _Shards:
    """The Parquet files of every split."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder = folder
        self._shard_bytes = shard_bytes
        self._splits: dict[str, _Shard] = {}

    @property
    def splits(self) -> list[str]:
        return list(self._splits)

    def write(self, split: str, row: dict[str, Any]) -> None:
        if split not in self._splits:
            self._splits[split] = _Shard(self._folder, split, self._shard_bytes)
        self._splits[split].write(row)

    def close(self) -> None:
        for shard in self._splits.values():
            shard.close()


class _Shard:
    """The file of a split that is being written, and the rows that are not in it yet."""

    def __init__(self, folder: Path, split: str, shard_bytes: int) -> None:
        self._folder = folder
        self._split = split
        self._shard_bytes = shard_bytes
        self._number = 0
        self._writer: pq.ParquetWriter | None = None
        self._written_bytes = 0
        self._rows: list[dict[str, Any]] = []
        self._row_bytes = 0

    def write(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._row_bytes += sum(len(row[name]["bytes"] or b"") for name in ("source_image", "target_image"))
        if len(self._rows) >= _ROW_GROUP_ROWS or self._row_bytes >= _ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        if self._rows:
            self._flush()
        if self._writer:
            self._writer.close()
            self._writer = None

    def _flush(self) -> None:
        path = self._folder / f"{self._split}-{self._number:05d}.parquet"
        if self._writer is None:
            self._writer = pq.ParquetWriter(path, _SCHEMA, compression="zstd")
        self._writer.write_table(pa.Table.from_pylist(self._rows, _SCHEMA))
        self._rows, self._row_bytes = [], 0
        if path.stat().st_size >= self._shard_bytes:
            self._writer.close()
            self._writer = None
            self._number += 1


class _Pictures:
    """The values of the feature image, {bytes, path}."""

    def __init__(self, images: Images, image_root: str | None) -> None:
        self._images = images
        self._image_root = image_root
        self._fetch = lru_cache(maxsize=64)(_fetch)  # pairs that follow one another share images
        self._check = lru_cache(maxsize=2**16)(_check)

    def read(self, row: Mapping[str, Any], side: str) -> dict[str, Any]:
        """The image of one side of a PAIRS row. Raises ImageError for one that is gone or is none."""
        key = image_key(row, side, self._image_root)
        data = row[f"{side}_image"]
        if data is not None:
            found: bytes | Failure | None = data if image_size_of(data) else _no_image(key)
        else:
            found = self._check(key) if self._images == "reference" else self._fetch(key)
        if isinstance(found, Failure):
            raise ImageError(found.stage, found.kind, found.message)
        # the path of an inline image is a name, which says where the image came from
        name = PurePosixPath(key).name if found is not None else key
        return {"bytes": found, "path": name}


def _fetch(uri: str) -> bytes | Failure:
    """The bytes of an image, or why there are none."""
    try:
        data = fetch_image(uri)
    except ImageError as error:
        return error.failure
    return data if image_size_of(data) else _no_image(uri)


def _check(uri: str) -> Failure | None:
    """The failure of a URI that leads to no image; only the head of the file is read."""
    if read_image_size(uri):
        return None
    try:
        fetch_image(uri)
    except ImageError as error:
        return error.failure
    return _no_image(uri)


def _no_image(key: str) -> Failure:
    return Failure("decode", "not_an_image", f"{key}: no image whose size can be read")


def _split(split: str | None) -> str:
    """A split's name as the hub has it: letters, digits and underscores."""
    if not split:
        return "train"
    name = safe_name(split)
    return _SPLITS.get(name, name)


def _front_matter(splits: list[str]) -> list[str]:
    """The configuration of the data set, YAML between two lines of dashes."""
    files = [line for split in splits for line in (f'  - split: "{split}"', f"    path: data/{split}-*.parquet")]
    features = [line for field in _SCHEMA for line in _feature(field)]
    return [
        *("---", "task_categories:", "- keypoint-detection", "tags:", "- semantic-correspondence", "- pseudo-labels"),
        *("configs:", "- config_name: default", "  data_files:", *files),
        *("dataset_info:", "  features:", *features, "---"),
    ]


def _feature(field: pa.Field) -> list[str]:
    """The lines of a feature in the card."""
    kind, depth = field.type, 0
    while pa.types.is_list(kind):
        kind, depth = kind.value_type, depth + 1
    name = "image" if kind == _IMAGE else {pa.float32(): "float32", pa.string(): "string"}[kind]
    lines = [f"  - name: {field.name}"]
    for level in range(depth):
        lines.append(f"{'  ' * level}    list:" + (f" {name}" if level == depth - 1 else ""))
    return lines if depth else [*lines, f"    dtype: {name}"]


def _notes(images: Images) -> list[str]:
    notes = [
        "Points and boxes are in pixels (x, y) of the images as shown, that is with their EXIF orientation applied, as "
        "the feature image has them; a box is x_min, y_min, x_max, y_max.",
    ]
    if images == "reference":
        notes.append("Images are not in the rows: `path` leads to them, on the machine or in the store they were on.")
    return notes
