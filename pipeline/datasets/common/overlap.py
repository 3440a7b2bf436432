"""Whether images were among those that a model was trained on, by the SHA-256 of their files.

An image that was encoded again, resized or cropped has another hash and is not found.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from pipeline.datasets.common.inline_images import IMAGE_COLUMNS
from pipeline.datasets.common.interface import map_in_threads
from pipeline.datasets.common.records import parquet_rows
from pipeline.io import storage
from pipeline.io.image_formats import readable_suffixes


def training_hashes(uris: Iterable[str]) -> set[bytes]:
    """The SHA-256 of each image: `uris` are image files, Parquet files with a column of them, or folders of either.

    Raises FileNotFoundError for a URI without an image.
    """
    hashes: set[bytes] = set()
    for uri in uris:
        found = set(_hashes(uri))
        if not found:
            raise FileNotFoundError(f"--training-images: {uri} has no image, neither as a file nor in .parquet files")
        hashes |= found
    return hashes


def image_hashes(uris: Iterable[str]) -> dict[str, bytes | None]:
    """The SHA-256 of each file; None for one that does not exist."""
    unique = sorted(set(uris))
    return dict(zip(unique, map_in_threads(_hash_of_file, unique), strict=True))


def _hashes(uri: str) -> Iterator[bytes]:
    images = []
    for file in [uri] if storage.is_file(uri) else _files_below(uri):
        if file.endswith(".parquet"):
            yield from _hashes_in_table(file)
        elif file.lower().endswith(readable_suffixes()):
            images.append(file)
    yield from (found for found in map_in_threads(_hash_of_file, images) if found)


def _files_below(folder: str) -> Iterator[str]:
    yield from storage.list_files(folder, "")
    for name in sorted(storage.folder_names(folder)):
        yield from _files_below(storage.join(folder, name))


def _hashes_in_table(uri: str) -> Iterator[bytes]:
    """Bytes in a column of images, as they are or as {bytes, path}; rows without bytes are left out."""
    first, *others = IMAGE_COLUMNS
    for row in parquet_rows(uri, (first,), optional=IMAGE_COLUMNS, instead={first: others}):
        image = next(row.record[name] for name in IMAGE_COLUMNS if name in row.record)
        data = image.get("bytes") if isinstance(image, Mapping) else image
        if isinstance(data, bytes):
            yield hashlib.sha256(data).digest()


def _hash_of_file(uri: str) -> bytes | None:
    try:
        return hashlib.sha256(storage.read_bytes(uri)).digest()
    except FileNotFoundError:
        return None
