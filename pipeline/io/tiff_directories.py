"""Selection of the directory of a TIFF that holds the picture, with limits on the cost of reading it.

A TIFF is a chain of directories, each with an image of its own: the picture, a thumbnail, a mask, the next page. A
camera's file begins with the thumbnail, and the picture is in a directory below it (SubIFDs).
"""

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from pipeline.io.image_formats import CostlyError

MAX_TIFF_TAGS = 2**16
"""Maximum number of tags in all directories up to the picture's."""
MAX_TIFF_VALUES = 2**18
"""Maximum number of values of a tag: the tallest image has 2^16 rows, each a strip, for each of four channels.

Readers make several Python objects of every number in a TIFF's tags, such as the offset of a strip.
"""

_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _WIDTH, _HEIGHT, _ORIENTATION, _SUB_DIRECTORIES = 254, 255, 256, 257, 274, 330
_KEPT = (_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _WIDTH, _HEIGHT, _ORIENTATION, _SUB_DIRECTORIES)
_REDUCED, _MASK = 1, 4
"""Bits of the tag NewSubfileType."""
_BYTES = (1, 2, 6, 7)
"""Types of tags whose values stay together as bytes."""
_INTEGERS = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}


class Directory(NamedTuple):
    """A directory of a TIFF."""

    offset: int
    """Offset of the directory in the file."""
    orientation: int
    """EXIF orientation of its image; if it has none, that of the directory above."""
    subfile_type: int
    """Bits of NewSubfileType: 1 a thumbnail, 4 a mask."""
    n_pixels: int


def picture_directory(data: bytes) -> Directory | None:
    """The first directory whose image is neither thumbnail nor mask, else the largest thumbnail; None if unreadable.

    The directories are walked in order, each followed by those below it. Raises CostlyError for tags beyond the limits.
    """
    thumbnails = []
    with suppress(struct.error, OverflowError):  # the file ends within a directory, or an offset is too large
        for directory in _Walk(data).directories():
            if not directory.subfile_type & (_REDUCED | _MASK):
                return directory
            if not directory.subfile_type & _MASK:
                thumbnails.append(directory)
    return max(thumbnails, key=lambda directory: directory.n_pixels, default=None)


def move_first_directory(data: bytes, offset: int) -> bytes:
    """The same TIFF with the directory at `offset` as its first."""
    order, start, offset_format = _header(data)
    return data[:start] + struct.pack(order + offset_format, offset) + data[start + struct.calcsize(offset_format) :]


def first_directory(data: bytes) -> int:
    """Offset of the first directory."""
    order, start, offset_format = _header(data)
    return struct.unpack_from(order + offset_format, data, start)[0]


def is_big(data: bytes) -> bool:
    """Whether it is a BigTIFF, with offsets of 64 bits."""
    return data[2:4] in (b"\x2b\0", b"\0\x2b")


def _header(data: bytes) -> tuple[str, int, str]:
    """Byte order, position and struct format of the offset of the first directory."""
    return ("<" if data.startswith(b"II") else ">", *((8, "Q") if is_big(data) else (4, "I")))


class _Walk:
    """One walk through the directories of a file, with the limits on what it may cost."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order, _, self._offset = _header(data)
        self._entries, self._entry = ("Q", "HHQQ") if is_big(data) else ("H", "HHII")
        self._n_tags = 0
        self._visited: set[int] = set()

    def directories(self) -> Iterator[Directory]:
        """Yields the directories up to the first that cannot be read."""
        pending = [(first_directory(self._data), 1)]
        while pending:
            offset, orientation = pending.pop()
            if offset == 0 or offset in self._visited:
                continue
            self._visited.add(offset)
            values, following = self._read(offset)
            numbers = {tag: value[0] for tag, value in values.items() if value}
            old_kind = _REDUCED if numbers.get(_SUBFILE_TYPE) == 2 else 0
            orientation = numbers.get(_ORIENTATION, orientation)
            yield Directory(
                offset,
                orientation,
                numbers.get(_NEW_SUBFILE_TYPE, old_kind),
                numbers.get(_WIDTH, 0) * numbers.get(_HEIGHT, 0),
            )
            below = [(start, orientation) for start in values.get(_SUB_DIRECTORIES, ())]
            pending += [(following, 1), *reversed(below)]

    def _read(self, offset: int) -> tuple[dict[int, tuple[int, ...]], int]:
        """The values of the tags that are used here, and the offset of the next directory."""
        values: dict[int, tuple[int, ...]] = {}
        (n_tags,) = self._unpack(self._entries, offset)
        start, size = offset + struct.calcsize("<" + self._entries), struct.calcsize("<" + self._entry)
        for position in range(start, start + n_tags * size, size):
            tag, kind, count, value = self._unpack(self._entry, position)
            self._n_tags += 1
            if self._n_tags > MAX_TIFF_TAGS:
                raise CostlyError(f"a TIFF of more than {MAX_TIFF_TAGS} tags, which are read at most")
            if kind not in _BYTES and count > MAX_TIFF_VALUES:
                raise CostlyError(f"TIFF tag {tag} has {count} values, at most {MAX_TIFF_VALUES} are read")
            if tag in _KEPT and kind in _INTEGERS:
                values[tag] = self._values(count, _INTEGERS[kind], value, position + size)
        try:
            (following,) = self._unpack(self._offset, start + n_tags * size)
        except (struct.error, OverflowError):  # the file ends with this directory
            following = 0
        return values, following

    def _values(self, count: int, number: str, value: int, end: int) -> tuple[int, ...]:
        """The numbers of a tag, which stand in its entry where they fit, else at the offset `value`."""
        room = struct.calcsize("<" + self._offset)
        in_entry = count * struct.calcsize("<" + number) <= room
        try:
            return self._unpack(f"{count}{number}", end - room if in_entry else value)
        except (struct.error, OverflowError):
            return ()

    def _unpack(self, what: str, position: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + what, self._data, position)
