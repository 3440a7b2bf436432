import io
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import broken_storage  # noqa: F401
import numpy as np
import pytest
from image_bytes import IMPOSTORS, UNKNOWN, png, tiff
from make import encoded, noise_rgb
from PIL import Image, ImageOps, PngImagePlugin

from nemf.rgb import to_rgb
from pipeline.io import images
from pipeline.io.images import (
    MAX_FILE_BYTES,
    MAX_PIXELS,
    ImageError,
    decode_image,
    decode_reduced,
    fetch_image,
    read_image,
)

SAVED = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")
"""Files written by Pillow in the formats that are read."""


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


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied_as_pillow_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise_rgb(0, (4, 6)), exif=exif)

    shown = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))

    np.testing.assert_array_equal(decode_image(data), np.asarray(shown))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0rubbish",
        b"Exif\0\0" + tiff()[:30],  # ends in its directory
        b"Exif\0\0" + tiff(8, 8, (0x0112, 3, 1, 99)),
        b"Exif\0\0" + tiff(8, 8, (0x0112, 2, 4, 0x00393939)),  # text
        b"Exif\0\0" + tiff(8, 8, (0x0112, 11, 1, 0x7FC00000)),  # not a number
        b"Exif\0\0" + tiff(8, 8, (0x0112, 3, 1000, 6)),
        b"Exif\0\0" + tiff(8, 8, (0x0112, 5, 1, 8)),  # a fraction
    ],
    ids=range(7),
)
def test_pixels_are_had_whatever_exif_says(exif: bytes) -> None:
    rgb = noise_rgb(0, (4, 6))

    for image_format, options in {"PNG": {}, "WEBP": {"lossless": True}}.items():
        np.testing.assert_array_equal(decode_image(encoded(rgb, image_format, exif=exif, **options)), rgb)


def test_a_turned_image_is_turned_beside_exif_that_cannot_be_written_back() -> None:
    turned = tiff(8, 8, (0x0112, 3, 1, 6), (0x011A, 2, 3, 0x00414141))  # a resolution that is a word

    assert decode_image(encoded(noise_rgb(0, (4, 6)), exif=b"Exif\0\0" + turned)).shape == (6, 4, 3)


def test_exif_in_a_text_of_a_png_is_applied() -> None:
    """A file as ImageMagick writes it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    record = exif.tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(record):8}\n{record.hex()}\n", zip=True)

    assert decode_image(encoded(noise_rgb(0, (4, 6)), pnginfo=text)).shape == (6, 4, 3)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_an_orientation_that_only_xmp_states_turns_nothing(image_format: str) -> None:
    packet = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", packet)
    exif = Image.Exif()
    exif[0x0112] = 8
    stated = {"pnginfo": text} if image_format == "PNG" else {"xmp": packet.encode()}
    rgb = np.full((4, 6, 3), 90, np.uint8)

    assert decode_image(encoded(rgb, image_format, **stated)).shape == (4, 6, 3)
    assert decode_image(encoded(rgb, image_format, exif=exif, **stated)).shape == (6, 4, 3)


def test_an_image_that_was_opened_keeps_its_xmp() -> None:
    opened = Image.open(io.BytesIO(encoded(noise_rgb(0), "JPEG", xmp=b"<x/>")))

    to_rgb(opened)

    assert opened.info["xmp"] == b"<x/>"


@pytest.mark.parametrize("transparent", [False, True])
def test_what_the_first_frame_of_a_gif_does_not_cover_is_white(transparent: bool) -> None:
    rgb = Image.fromarray(noise_rgb(0, (4, 6))).quantize(4)
    whole = encoded(rgb, "GIF", **({"transparency": 3} if transparent else {}))
    at = whole.index(b",\0\0\0\0\x06\0\x04\0")
    moved = whole[:6] + struct.pack("<HH", 9, 8) + whole[10 : at + 1] + struct.pack("<HH", 2, 3) + whole[at + 5 :]

    shown = decode_image(moved).copy()

    np.testing.assert_array_equal(shown[3:7, 2:8], decode_image(whole))
    shown[3:7, 2:8] = 255
    assert shown.shape == (8, 9, 3)
    assert shown.min() == 255


def test_a_gif_without_its_last_byte_is_whole() -> None:
    whole = encoded(noise_rgb(0), "GIF")
    assert whole.endswith(b";")

    np.testing.assert_array_equal(decode_image(whole[:-1]), decode_image(whole))


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


def test_no_pixels_are_no_image() -> None:
    with pytest.raises(ImageError) as error:
        decode_image(png(np.zeros((0, 0, 3), int), 8, 2))
    assert error.value.failure.kind == "not_an_image"


def test_one_pixel() -> None:
    assert decode_image(encoded(noise_rgb(0, (1, 1)))).shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty_file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        (encoded(noise_rgb(0, (64, 64)), "JPEG")[:900], "truncated"),
        (encoded(np.zeros((2, 2), np.float32), "TIFF"), "unsupported_mode"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_decoded_says_why(data: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=r"^cat\.jpg: ") as error:
        decode_image(data, "cat.jpg")

    assert error.value.failure[:2] == ("decode", kind)


@pytest.mark.parametrize("image_format", SAVED)
def test_more_pixels_than_allowed_are_named_and_the_limit_is_not_beyond_itself(
    image_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(noise_rgb(0, (16, 20)), image_format)
    monkeypatch.setattr(images, "MAX_PIXELS", 320)
    assert decode_image(data).shape == (16, 20, 3)

    monkeypatch.setattr(images, "MAX_PIXELS", 319)
    with pytest.raises(ImageError, match=r"^cat\.jpg: 20 x 16 pixels, at most 319 are read$") as error:
        decode_image(data, "cat.jpg")
    assert (error.value.failure.stage, error.value.failure.kind) == ("decode", "too_large")


def test_pixels_beyond_pillows_own_limit_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)

    with pytest.raises(ImageError, match=f"more than the {MAX_PIXELS} pixels that are read") as error:
        decode_image(encoded(noise_rgb(0)))
    assert error.value.failure.kind == "too_large"


@pytest.mark.parametrize("chunk", ["text", "profile"])
def test_texts_and_profiles_of_a_png_are_bounded(chunk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b" * 1000, zip=True)
    options = {"pnginfo": text} if chunk == "text" else {"icc_profile": bytes(1000)}
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 100)

    with pytest.raises(ImageError) as error:
        decode_image(encoded(noise_rgb(0), "PNG", **options))
    assert error.value.failure.kind == "corrupt"


def test_an_image_may_be_50_000_pixels_wide() -> None:
    assert decode_image(encoded(np.zeros((1, 50_000, 3), np.uint8), "JPEG")).shape == (1, 50_000, 3)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG", "TIFF", "AVIF", "MPO"])
def test_of_several_frames_the_first_is_taken(image_format: str) -> None:
    first, second = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16), "black")
    data = encoded(first, image_format, save_all=True, append_images=[second, second])

    assert decode_image(data).min() > 250


@pytest.mark.parametrize("name", IMPOSTORS)
def test_what_is_no_image_we_read_is_named_and_not_opened(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", _refuse)
    data, kind = IMPOSTORS[name]

    with pytest.raises(ImageError) as error:
        decode_image(data, "cat.jpg")

    assert error.value.failure.message == f"cat.jpg: not an image we read: it is {kind}"
    assert error.value.failure.kind == "not_an_image"


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_of_no_known_kind_is_told_the_formats(name: str) -> None:
    with pytest.raises(ImageError, match=r"^cat\.jpg: not one of JPEG, PNG, WEBP, TIFF, BMP, GIF, AVIF") as error:
        decode_image(UNKNOWN[name], "cat.jpg")

    assert error.value.failure.kind == "not_an_image"


def _refuse(*arguments: object, **options: object) -> None:
    raise AssertionError(f"{arguments} was started")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.*")
@pytest.mark.parametrize("image_format", SAVED)
def test_a_file_cut_anywhere_is_pixels_or_an_error(image_format: str) -> None:
    """Pixels only near the end: where what is missing says nothing."""
    whole = encoded(noise_rgb(0, (6, 5)), image_format)

    decoded, errors = {}, []
    for length in range(len(whole)):
        try:
            decoded[length] = decode_image(whole[:length])
        except ImageError as error:
            errors.append(error)

    assert {error.failure[:2] for error in errors} <= {
        ("decode", kind) for kind in ("empty_file", "not_an_image", "truncated", "corrupt")
    }
    assert not [error.failure for error in errors if "\n" in error.failure.message]
    assert {rgb.shape for rgb in decoded.values()} <= {(6, 5, 3)}
    assert min(decoded, default=len(whole)) > 0.6 * len(whole)


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
        assert error.value.failure == ("fetch", kind, f"{uri}: {why}")


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "long.jpg").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)

    with pytest.raises(ImageError, match=f"{MAX_FILE_BYTES + 1} bytes, at most {MAX_FILE_BYTES} are read") as error:
        fetch_image(str(tmp_path / "long.jpg"))

    assert error.value.failure[:2] == ("fetch", "too_large")


def test_whatever_a_file_system_raises_is_a_reason() -> None:
    with pytest.raises(ImageError, match=r"^broken://a.jpg: LookupError: the server is on fire$") as error:
        fetch_image("broken://a.jpg")

    assert error.value.failure[:2] == ("fetch", "unreadable")


def _ramp(hw: tuple[int, int]) -> np.ndarray:
    """Red rises by 3 a pixel from left to right, green from top to bottom."""
    y, x = np.mgrid[: hw[0], : hw[1]]
    return np.stack([3 * x, 3 * y, 0 * x + 128], axis=2).astype(np.uint8)


@pytest.mark.parametrize(
    ("hw", "side", "reduced_hw"),
    [
        ((47, 81), 11, (24, 41)),
        ((47, 81), 12, (47, 81)),
        ((48, 81), 12, (24, 41)),
        ((48, 81), 6, (12, 21)),
        ((48, 81), 3, (6, 11)),
        ((48, 81), 1, (6, 11)),
        ((81, 48), 12, (41, 24)),
        ((48, 81), None, (48, 81)),
    ],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_is_reduced_as_far_as_twice_the_side_allows(
    kind: str, hw: tuple[int, int], side: int | None, reduced_hw: tuple[int, int]
) -> None:
    read = decode_reduced(encoded(_ramp(hw), kind), "a", side)

    assert read.whole_hw == hw
    assert read.rgb.shape == (*reduced_hw, 3)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "CMYK"}, {"mode": "L"}, {"format": "PNG"}])
@pytest.mark.parametrize("hw", [(64, 80), (63, 77), (61, 66)])
def test_a_reduced_pixel_is_where_its_share_of_the_whole_image_is(hw: tuple[int, int], options: dict[str, Any]) -> None:
    options = {"format": "JPEG", "mode": "RGB", "quality": 100, "subsampling": 0, **options}
    file = io.BytesIO()
    Image.fromarray(_ramp(hw)).convert(options.pop("mode")).save(file, **options)

    whole, read = decode_image(file.getvalue()), decode_reduced(file.getvalue(), "a", 7)

    height, width = -(-hw[0] // 4), -(-hw[1] // 4)
    assert (read.whole_hw, read.rgb.shape) == (hw, (height, width, 3))
    expected = np.asarray(Image.fromarray(whole).resize((width, height), Image.Resampling.BOX), np.float64)
    assert np.abs(read.rgb - expected)[1:-1, 1:-1].max() <= 3.5


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_image_is_turned_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(_ramp((40, 64)), "JPEG", exif=exif, quality=100, subsampling=0)

    whole, read = decode_image(data), decode_reduced(data, "a", 10)

    assert read.whole_hw == whole.shape[:2]
    expected = np.asarray(Image.fromarray(whole).reduce(2), np.float64)
    assert np.abs(read.rgb - expected).max() <= 4


def test_the_end_of_a_jpeg_may_be_missing_at_a_reduced_scale_too() -> None:
    data = encoded(_ramp((64, 64)), "JPEG", quality=100)

    assert decode_reduced(data[:-2], "a", 8).rgb.shape == (16, 16, 3)
    with pytest.raises(ImageError, match="truncated"):
        decode_reduced(data[: len(data) // 2], "a", 8)


def test_16_bit_pixels_are_reduced_as_they_are_shown() -> None:
    grey = np.repeat(np.arange(64, dtype=np.uint16)[None] * 514, 64, axis=0)[..., None]

    read = decode_reduced(png(grey, 16, 0), "a", 16)

    np.testing.assert_array_equal(read.rgb[0, :, 0], np.arange(0, 128, 4) + 1)
