import os
from pathlib import Path

import broken_storage  # noqa: F401
import numpy as np
import pytest
from make import bomb_png, encoded, noise_rgb
from PIL import Image

from pipeline.images import MAX_FILE_BYTES, ImageError, decode_image, fetch_image, read_image


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    rgb = noise_rgb(0)
    (tmp_path / "a.png").write_bytes(encoded(rgb))

    np.testing.assert_array_equal(read_image(str(tmp_path / "a.png")), rgb)


def test_exif_orientation_is_applied() -> None:
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise

    shown = decode_image(encoded(rgb, "PNG", exif=exif))

    assert shown.shape == (6, 4, 3)
    assert shown[0, 3].tolist() == [255, 255, 255]


def test_sixteen_bit_grey_keeps_its_range() -> None:
    grey = np.array([[0, 257, 32896, 65535]], np.uint16)

    assert decode_image(encoded(grey))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_cmyk_becomes_rgb() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))

    red = decode_image(encoded(cmyk, "JPEG", quality=100))[4, 4].astype(int)

    assert red[0] > 200
    assert max(red[1], red[2]) < 60


def test_palette_becomes_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)

    assert decode_image(encoded(image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_transparency_shows_white() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (10, 20, 30, 255))

    assert decode_image(encoded(image)).tolist() == [[[255, 255, 255], [10, 20, 30]]]


def test_one_pixel() -> None:
    assert decode_image(encoded(noise_rgb(0, (1, 1)))).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty_file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (encoded(noise_rgb(0, (64, 64)), "JPEG")[:900], "truncated"),
        (bomb_png(), "too_large"),
        (encoded(np.zeros((2, 2), np.float32), "TIFF"), "unsupported_mode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_decoded_says_why(data: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=r"^cat\.jpg: ") as error:
        decode_image(data, "cat.jpg")

    assert (error.value.stage, error.value.kind) == ("decode", kind)


def test_what_cannot_be_fetched_says_why(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    expected = {
        str(tmp_path / "absent.jpg"): ("not_found", "there is no such file"),
        str(tmp_path): ("unreadable", "not a file, but of type directory"),
        str(tmp_path / "pipe.jpg"): ("unreadable", "not a file, but of type other"),
        "nonsense://a/b.jpg": ("bad_uri", "Protocol not known: nonsense"),
        "a\0b.jpg": ("bad_uri", "embedded null byte"),
    }
    for uri, (kind, why) in expected.items():
        with pytest.raises(ImageError) as error:
            fetch_image(uri)
        assert (error.value.stage, error.value.kind, error.value.message) == ("fetch", kind, f"{uri}: {why}")


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "long.jpg").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)

    with pytest.raises(ImageError, match=f"{MAX_FILE_BYTES + 1} bytes, at most {MAX_FILE_BYTES} are read") as error:
        fetch_image(str(tmp_path / "long.jpg"))

    assert (error.value.stage, error.value.kind) == ("fetch", "too_large")


def test_whatever_a_file_system_raises_is_a_reason() -> None:
    with pytest.raises(ImageError, match=r"^broken://a.jpg: LookupError: the server is on fire$") as error:
        fetch_image("broken://a.jpg")

    assert (error.value.stage, error.value.kind) == ("fetch", "unreadable")
