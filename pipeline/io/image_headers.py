"""What the headers of an image file ask for where Pillow has no limit: a small file could ask for hours, or all memory.

Decoding a JPEG takes time for every scan, however little is in it; encoders write a dozen. Pillow makes several Python
objects of every number in a TIFF's tags, such as the offset of a strip. All other costs grow with pixels and bytes.
"""

import re
import struct
from collections.abc import Iterator

MAX_JPEG_SCANS = 100
"""libtiff has the same limit for the JPEGs that it finds in TIFFs."""
MAX_TIFF_TAGS = 2**16
MAX_TIFF_VALUES = 2**18
"""Numbers of one tag: more strips than the tallest image of 16 bits has rows, for each of four channels."""

_JPEG = b"\xff\xd8\xff"
_TIFF = (b"II\x2a\0", b"MM\0\x2a", b"MM\x2a\0", b"II\0\x2a", b"MM\0\x2b", b"II\x2b\0")  # all that Pillow takes for one
_END_OF_IMAGE, _START_OF_SCAN = b"\xd9", b"\xda"
_SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
"""A marker that a length follows, or the end: neither a stuffed or fill byte, nor one of those that stand alone."""
_BYTES = (1, 2, 6, 7)
"""Types of tags whose values stay together as bytes."""


class CostlyError(ValueError):
    """An image file whose headers ask for more than any image needs."""


def check_headers(data: bytes) -> None:
    """Raises CostlyError for headers beyond the limits; those that cannot be read are left to the decoder."""
    if data.startswith(_JPEG):
        if sum(1 for _, _ in zip(_jpeg_scans(data), range(MAX_JPEG_SCANS + 1), strict=False)) > MAX_JPEG_SCANS:
            raise CostlyError(f"a JPEG of more than {MAX_JPEG_SCANS} scans, which are decoded at most")
    elif data.startswith(_TIFF):
        for number, (tag, count) in enumerate(_tiff_tags(data), start=1):
            if number > MAX_TIFF_TAGS:
                raise CostlyError(f"a TIFF of more than {MAX_TIFF_TAGS} tags, which are read at most")
            if count > MAX_TIFF_VALUES:
                raise CostlyError(f"TIFF tag {tag} has {count} values, at most {MAX_TIFF_VALUES} are read")


def _jpeg_scans(data: bytes) -> Iterator[int]:
    """Where the scans of a JPEG begin, found as libjpeg finds them."""
    position = len(_JPEG) - 1
    while (marker := _SEGMENT.search(data, position)) and marker[1] != _END_OF_IMAGE:
        if marker[1] == _START_OF_SCAN:
            yield marker.start()
        position = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")


def _tiff_tags(data: bytes) -> Iterator[tuple[int, int]]:
    """The tags of a TIFF's first directory, each with how many numbers it has; bytes and text are none."""
    order = "<" if data.startswith(b"II") else ">"
    is_big = data[2] == 43
    offset, entries, entry = ("8xQ", "Q", "HHQ8x") if is_big else ("4xI", "H", "HHI4x")
    try:
        (start,) = struct.unpack_from(order + offset, data)
        (n_tags,) = struct.unpack_from(order + entries, data, start)
        first, size = start + struct.calcsize(order + entries), struct.calcsize(order + entry)
        for number in range(n_tags):
            tag, kind, count = struct.unpack_from(order + entry, data, first + number * size)
            yield tag, 0 if kind in _BYTES else count
    except struct.error:  # it ends before its directory does, or begins beyond any file
        return
