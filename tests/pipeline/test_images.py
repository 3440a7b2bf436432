import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from make import encoded, noise_rgb
from PIL import Image

from pipeline.images import ImageError, decode_image, fetch_image, read_image


def _saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    rgb = noise_rgb(0)
    (tmp_path / "a.png").write_bytes(encoded(rgb))

    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), rgb)


def test_exif_orientation_is_applied() -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise

    shown = decode_image(_saved(Image.fromarray(rgb), "PNG", exif=exif))

    assert shown.shape == (6, 4, 3)
    assert shown[0, 3].tolist() == [255, 255, 255]


def test_sixteen_bit_grey_keeps_its_range() -> None:
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)

    assert decode_image(_saved(Image.fromarray(grey), "PNG"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_becomes_rgb() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))

    red = decode_image(_saved(cmyk, "JPEG", quality=100))[4, 4].astype(int)

    assert red[0] > 200
    assert max(red[1], red[2]) < 60


def test_palette_becomes_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)

    assert decode_image(_saved(image, "PNG")).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_transparency_shows_white() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))

    assert decode_image(_saved(image, "PNG")).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_one_pixel() -> None:
    assert decode_image(encoded(noise_rgb(0, (1, 1)))).shape == (1, 1, 3)


def _bomb() -> bytes:
    """A PNG of 20,000 x 20,000 pixels in a few bytes of header."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty_file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (encoded(noise_rgb(0, (64, 64)), "JPEG")[:900], "truncated"),
        (_bomb(), "too_large"),
        (_saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "unsupported_mode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_decoded_says_why(data: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=r"^cat\.jpg: ") as error:
        decode_image(data, "cat.jpg")

    assert (error.value.stage, error.value.kind) == ("decode", kind)


def test_what_cannot_be_fetched_says_why(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="there is no such file") as missing:
        fetch_image(str(tmp_path / "absent.jpg"))
    with pytest.raises(ImageError) as folder:
        fetch_image(str(tmp_path))
    with pytest.raises(ImageError) as scheme:
        fetch_image("nonsense://a/b.jpg")

    kinds = [(e.value.stage, e.value.kind) for e in (missing, folder, scheme)]
    assert kinds == [("fetch", "not_found"), ("fetch", "unreadable"), ("fetch", "bad_uri")]
