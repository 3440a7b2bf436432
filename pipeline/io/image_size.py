"""The size of an image, read from the head of its file without decoding it."""

import io
from contextlib import suppress
from typing import Any, NamedTuple

from fsspec.implementations.local import LocalFileSystem
from PIL import ExifTags, Image

from nemf.io.uri import open_uri, with_retries
from nemf.rgb import SIDEWAYS, exif_orientation
from pipeline.io.image_formats import format_of, readable_formats, register_heif
from pipeline.io.images import MAX_FILE_BYTES
from pipeline.io.tiff_directories import first_directory, move_first_directory, picture_directory

_HEAD_BYTES = 2**16


class ImageSize(NamedTuple):
    """The size of an image as it is stored, and its EXIF orientation."""

    stored_wh: tuple[int, int]
    """Width and height in pixels."""
    orientation: int
    """EXIF orientation, 1 to 8; 1 is shown as stored."""

    @property
    def shown_wh(self) -> tuple[int, int]:
        """Width and height of the picture that pipeline.io.images reads."""
        return self.stored_wh[::-1] if self.orientation in SIDEWAYS else self.stored_wh


def read_image_size(uri: str) -> ImageSize | None:
    """The size of the image at `uri`; None if there is no image that can be read.

    Of a remote file 64 KiB are read, and all of it if they do not hold the size: one request, or two.
    """
    with suppress(Exception):  # each kind of file, and of store, fails in its own way
        fs, path = open_uri(uri)
        if isinstance(fs, LocalFileSystem):
            with fs.open(path, "rb") as file:
                return _size(file)
        head = _first_bytes(uri, _HEAD_BYTES)
        with suppress(Exception):
            if len(head) < _HEAD_BYTES or format_of(head) != "TIFF":
                return _size(io.BytesIO(head))
        return _size(io.BytesIO(_first_bytes(uri, MAX_FILE_BYTES)))
    return None


def image_size_of(data: bytes) -> ImageSize | None:
    """The size of an image in memory; None if it is none that can be read."""
    with suppress(Exception):  # each kind of file fails in its own way
        return _size(io.BytesIO(data))
    return None


def _first_bytes(uri: str, n_bytes: int) -> bytes:
    return with_retries(uri, lambda fs, path: fs.cat_file(path, start=0, end=n_bytes))


def _size(file: Any) -> ImageSize:
    name = format_of(file.read(_HEAD_BYTES))
    file.seek(0)
    if name not in readable_formats():
        raise ValueError("no image that is read")
    if name == "TIFF":
        return _size_of_tiff(file.read(MAX_FILE_BYTES))
    if name == "HEIF":
        register_heif()
    with Image.open(file, formats=(name,)) as image:
        if name == "PNG" and "exif" not in image.info:
            image.info.update(_late_exif(file))
        return ImageSize(image.size, exif_orientation(image))


def _size_of_tiff(data: bytes) -> ImageSize:
    directory = picture_directory(data)
    if directory is not None and directory.offset != first_directory(data):
        data = move_first_directory(data, directory.offset)
    with Image.open(io.BytesIO(data), formats=("TIFF",)) as image:
        tags = image.tag_v2  # type: ignore[attr-defined]
        wh = (int(tags[ExifTags.Base.ImageWidth]), int(tags[ExifTags.Base.ImageLength]))
        return ImageSize(wh, directory.orientation if directory else tags.get(ExifTags.Base.Orientation, 1))


def _late_exif(file: Any) -> dict[str, bytes]:
    """The EXIF of a PNG that comes behind its pixels, as Pillow's info has it once they are read."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        n_bytes = int.from_bytes(head[:4], "big")
        if head[4:] == b"eXIf":
            return {"exif": b"Exif\0\0" + file.read(min(n_bytes, MAX_FILE_BYTES))}
        file.seek(n_bytes + 4, io.SEEK_CUR)
    return {}
