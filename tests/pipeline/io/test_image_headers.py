import struct

import pytest
from hostile_images import jpeg_of_scans, tiff
from make import encoded, noise_rgb
from PIL import Image

from pipeline.io.image_headers import MAX_JPEG_SCANS, MAX_TIFF_VALUES, CostlyError, check_headers


def _segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def test_scans_are_counted_to_the_limit() -> None:
    check_headers(jpeg_of_scans(MAX_JPEG_SCANS))
    with pytest.raises(CostlyError, match=f"a JPEG of more than {MAX_JPEG_SCANS} scans"):
        check_headers(jpeg_of_scans(MAX_JPEG_SCANS + 1))


def test_what_only_looks_like_scans_is_none() -> None:
    """Scans of a preview in the metadata, and whatever follows the end, such as a film."""
    whole = encoded(noise_rgb(0), "JPEG")
    preview = _segment(0xE1, jpeg_of_scans(MAX_JPEG_SCANS + 1)[:60_000])

    check_headers(whole[:2] + preview + whole[2:] + b"\xff\xda" * 1000)


def test_scans_are_not_hidden_by_an_end_within_a_comment() -> None:
    hostile = jpeg_of_scans(MAX_JPEG_SCANS + 1)
    comment = _segment(0xFE, b"\xff\xd9")

    with pytest.raises(CostlyError, match="scans"):
        check_headers(hostile[:2] + comment + hostile[2:])


@pytest.mark.parametrize("tag", [258, 273, 279, 320, 65000])
def test_numbers_of_a_tag_are_counted_to_the_limit(tag: int) -> None:
    check_headers(tiff(8, 8, (tag, 4, MAX_TIFF_VALUES, 200)))
    with pytest.raises(CostlyError, match=f"TIFF tag {tag} has {MAX_TIFF_VALUES + 1} values, at most"):
        check_headers(tiff(8, 8, (tag, 4, MAX_TIFF_VALUES + 1, 200)))


def test_bytes_and_text_are_not_numbers() -> None:
    for kind in (1, 2, 6, 7):
        check_headers(tiff(8, 8, (700, kind, 2**32 - 1, 200)))


@pytest.mark.parametrize("prefix", [b"MM\0\x2a", b"MM\x2a\0"])
def test_big_endian_tags_are_counted(prefix: bytes) -> None:
    entry = struct.pack(">HHII", 273, 4, 2**31, 200)

    with pytest.raises(CostlyError, match="TIFF tag 273 has 2147483648 values"):
        check_headers(prefix + struct.pack(">IH", 8, 1) + entry)


def test_tags_of_a_bigtiff_are_counted() -> None:
    head = b"II\x2b\0" + struct.pack("<HHQ", 8, 0, 16)

    with pytest.raises(CostlyError, match="TIFF tag 273 has 1099511627776 values"):
        check_headers(head + struct.pack("<QHHQQ", 1, 273, 16, 2**40, 200))
    with pytest.raises(CostlyError, match="a TIFF of more than 65536 tags"):
        check_headers(head + struct.pack("<Q", 2**60) + struct.pack("<HHQQ", 1, 1, 1, 0) * 65_537)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_headers_of_real_images_are_fine_however_they_are_cut(image_format: str) -> None:
    whole = encoded(Image.fromarray(noise_rgb(0)), image_format)

    for length in (*range(0, 200), len(whole)):
        check_headers(whole[:length])
