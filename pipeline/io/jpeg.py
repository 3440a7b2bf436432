"""JPEG files: the cost of decoding one, its kind, and whether one without its end mark is complete."""

import io
import re
from collections.abc import Iterator

from PIL import Image, ImageChops

from pipeline.io.image_formats import CostlyError

MAX_JPEG_SCANS = 100
"""Maximum number of scans. Each takes as long as the whole image; encoders write a dozen. libtiff has the same
limit."""

_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_SEGMENT = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
"""A marker that a length follows, or the end: neither a stuffed or fill byte, nor one of those that stand alone."""
_ZERO_TAIL = bytes(64)
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_LOSSLESS, _HIERARCHICAL, _ARITHMETIC = (0xC3, 0xCB), (0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), (0xC9, 0xCA, 0xCB)
_JPEG_LS = 0xF7
_FRAMES = (0xC0, 0xC1, 0xC2, *_LOSSLESS, *_HIERARCHICAL, *_ARITHMETIC, _JPEG_LS)


def check_scans(data: bytes) -> None:
    """Raises CostlyError for a JPEG of more than MAX_JPEG_SCANS scans."""
    if sum(1 for _, _ in zip(_scans(data), range(MAX_JPEG_SCANS + 1), strict=False)) > MAX_JPEG_SCANS:
        raise CostlyError(f"a JPEG of more than {MAX_JPEG_SCANS} scans, which are decoded at most")


def unsupported_jpeg(data: bytes) -> str | None:
    """The kind of a JPEG that Pillow does not open, such as "a 12-bit JPEG"; None where its header has no such kind."""
    frame = next((segment for segment in _segments(data) if segment[0] in _FRAMES), None)
    if frame is None or len(frame[1]) < 6:
        return None
    marker, body = frame
    bits, components = body[0], body[5]
    if marker == _JPEG_LS:
        return "JPEG-LS"
    if marker in _LOSSLESS:
        return "a lossless JPEG"
    if marker in _HIERARCHICAL:
        return "a hierarchical JPEG"
    if bits != 8:
        return f"a {bits}-bit JPEG"
    if components not in (1, 3, 4):
        return f"a JPEG of {components} components"
    return "an arithmetic-coded JPEG" if marker in _ARITHMETIC else None


def without_zero_tail(data: bytes) -> bytes:
    """A file without the zeros that fill it up where a download ended early, or a disk was read back in blocks.

    libjpeg takes them for pixels, where pixels are missing.
    """
    return data.rstrip(b"\0") if data.endswith(_ZERO_TAIL) else data


def decode_without_end_mark(data: bytes) -> Image.Image | None:
    """The decoded image of a JPEG that Pillow calls truncated, if nothing but its end mark is missing; else None.

    libjpeg fills in what is missing and does not say so. What follows the last byte of a complete image is not looked
    at, so that the pixels are the same whatever is put there; where data are missing, it is decoded as data.
    """
    if not _has_all_scans(data):
        return None
    data = data.removesuffix(b"\xff")
    restarts = _RESTART.findall(data)
    restart = bytes([0xFF, 0xD0 + (restarts[-1][0] - 0xD0 + 1) % 8]) if restarts else b"\xff\xd0"
    first, *others = (filler * 32 + restart * bool(filler) + filler * 32 for filler in (b"", b"\x00", b"\x5a", b"\xa9"))
    image = _decoded(data + first)
    for filler in others:
        if ImageChops.difference(image, _decoded(data + filler)).getbbox():
            return None
    return image


def _decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data + b"\xff\xd9"), formats=("JPEG",))
    image.load()
    return image


def _has_all_scans(data: bytes) -> bool:
    """Whether there are scans for every coefficient of every component, to its last bit; their data may be missing."""
    missing: dict[int, set[int]] = {}
    for marker, body in _segments(data):
        try:
            if marker in _FRAMES:
                missing = {body[6 + 3 * index]: set(range(64)) for index in range(body[5])}
            elif marker == _START_OF_SCAN:
                first, last, bits = body[1 + 2 * body[0] : 4 + 2 * body[0]]
                if bits & 15 == 0:
                    for index in range(body[0]):
                        missing[body[1 + 2 * index]] -= set(range(first, last + 1))
        except (IndexError, KeyError, ValueError):
            return False
    return bool(missing) and not any(missing.values())


def _scans(data: bytes) -> Iterator[int]:
    return (marker for marker, _ in _segments(data) if marker == _START_OF_SCAN)


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of the segments of a JPEG up to its end mark, found as libjpeg finds them."""
    position = 2  # after the start-of-image marker
    while (found := _SEGMENT.search(data, position)) and found[1][0] != _END_OF_IMAGE:
        start = found.end()
        position = start + int.from_bytes(data[start : start + 2], "big")
        yield found[1][0], data[start + 2 : min(position, start + 1000)]
