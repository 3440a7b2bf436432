import io

import imagecodecs
import numpy as np
import pytest
from image_bytes import segment
from make import encoded, noise_rgb
from PIL import Image

from pipeline.io import jpeg
from pipeline.io.image_formats import CostlyError
from pipeline.io.images import ImageError, decode_image
from pipeline.io.jpeg import check_scans, decode_without_end_mark, unsupported_jpeg

END = b"\xff\xd9"


def _progressive() -> bytes:
    """Ten scans."""
    return encoded(noise_rgb(0), "JPEG", progressive=True)


def test_scans_are_counted_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "MAX_JPEG_SCANS", 10)
    check_scans(_progressive())

    monkeypatch.setattr(jpeg, "MAX_JPEG_SCANS", 9)
    with pytest.raises(CostlyError, match="a JPEG of more than 9 scans"):
        check_scans(_progressive())
    with pytest.raises(ImageError, match="a JPEG of more than 9 scans") as error:
        decode_image(_progressive())
    assert (error.value.failure.stage, error.value.failure.kind) == ("decode", "too_large")


def test_what_only_looks_like_scans_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans of a preview in the metadata, and whatever follows the end, such as a film."""
    monkeypatch.setattr(jpeg, "MAX_JPEG_SCANS", 1)
    whole = encoded(noise_rgb(0), "JPEG")

    check_scans(whole[:2] + segment(0xE1, _progressive()) + whole[2:] + b"\xff\xda" * 9)


def test_scans_are_not_hidden_by_an_end_within_a_comment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg, "MAX_JPEG_SCANS", 9)
    whole = _progressive()

    with pytest.raises(CostlyError, match="scans"):
        check_scans(whole[:2] + segment(0xFE, END) + whole[2:])


def test_headers_are_read_however_they_are_cut() -> None:
    whole = _progressive()

    for length in (*range(0, 200), len(whole)):
        check_scans(whole[:length])
        unsupported_jpeg(whole[:length])


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 95},
        {"quality": 30, "subsampling": 2},
        {"progressive": True},
        {"optimize": True, "subsampling": 0},
        {"restart_marker_blocks": 1},
        {"restart_marker_rows": 1},
        {"progressive": True, "restart_marker_blocks": 3},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_missing_end_mark_is_none_of_our_business_and_missing_rows_are(mode: str, options: dict[str, object]) -> None:
    smooth = Image.fromarray(np.add.outer(np.arange(40), 2 * np.arange(50)).astype(np.uint8)).convert("RGB")
    for image in (Image.fromarray(noise_rgb(0, (40, 50))), smooth, Image.new("RGB", (40, 50), "orange")):
        whole = encoded(image.convert(mode), "JPEG", **options)
        assert whole.endswith(END)
        expected = decode_image(whole)

        np.testing.assert_array_equal(decode_image(whole[:-1]), expected)
        np.testing.assert_array_equal(decode_image(whole[:-2]), expected)
        start = whole.index(b"\xff\xda")
        for length in range(start + 12, len(whole) - 2, 1 + len(whole) // 12):
            _is_whole_or_truncated(whole[:length], expected)
        for length in range(len(whole) - 8, len(whole) - 2):
            _is_whole_or_truncated(whole[:length], expected)


def _is_whole_or_truncated(data: bytes, expected: np.ndarray) -> None:
    kind, shown = "", expected
    try:
        shown = decode_image(data)
    except ImageError as error:
        kind = error.failure.kind
    assert kind in ("", "truncated")
    np.testing.assert_array_equal(shown, expected)


@pytest.mark.parametrize("progressive", [False, True])
def test_zeros_at_the_end_are_no_pixels(progressive: bool) -> None:
    whole = encoded(noise_rgb(0, (40, 50)), "JPEG", progressive=progressive)

    for length in (1, 63, 64, 5000):
        np.testing.assert_array_equal(decode_image(whole + bytes(length)), decode_image(whole))
    np.testing.assert_array_equal(decode_image(whole[:-2] + bytes(5000)), decode_image(whole))
    for zeros in (len(whole) // 2, 5000):
        with pytest.raises(ImageError) as error:
            decode_image(whole[: len(whole) // 2] + bytes(zeros))
        assert error.value.failure.kind == "truncated"


def test_missing_scans_are_not_made_up() -> None:
    whole = _progressive()
    last_scan = whole.rindex(b"\xff\xda")
    table = whole.rindex(b"\xff\xc4", 0, last_scan)

    assert decode_without_end_mark(whole[:table]) is None
    assert decode_without_end_mark(whole[:last_scan]) is None
    assert decode_without_end_mark(whole[: whole.index(b"\xff\xda")]) is None
    assert decode_without_end_mark(whole[:-2]) is not None


@pytest.mark.parametrize(
    ("marker", "bits", "kind"),
    [
        (0xC1, 12, "a 12-bit JPEG"),
        (0xC2, 12, "a 12-bit JPEG"),
        (0xC3, 8, "a lossless JPEG"),
        (0xC5, 8, "a hierarchical JPEG"),
    ],
)
def test_kinds_that_are_not_read_are_named(marker: int, bits: int, kind: str) -> None:
    whole = encoded(noise_rgb(0), "JPEG")
    at = whole.index(b"\xff\xc0")
    changed = whole[: at + 1] + bytes([marker]) + whole[at + 2 : at + 4] + bytes([bits]) + whole[at + 5 :]

    with pytest.raises(ImageError, match=f"^a.jpg: not an image we read: it is {kind}$") as error:
        decode_image(changed, "a.jpg")

    assert error.value.failure.kind == "unsupported_mode"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (imagecodecs.jpeg8_encode(noise_rgb(0).astype(np.uint16) * 16, bitspersample=12), "a 12-bit JPEG"),
        (imagecodecs.ljpeg_encode(noise_rgb(0)[..., 0].astype(np.uint16), bitspersample=12), "a lossless JPEG"),
        (imagecodecs.jpegls_encode(noise_rgb(0)[..., 0]), "JPEG-LS"),
    ],
    ids=["12 bits", "lossless", "JPEG-LS"],
)
def test_files_of_kinds_that_are_not_read_are_named(data: bytes, kind: str) -> None:
    with pytest.raises(ImageError, match=f"^a.jpg: not an image we read: it is {kind}$") as error:
        decode_image(data, "a.jpg")

    assert error.value.failure.kind == "unsupported_mode"


def test_eight_bits_without_loss_are_read_or_named() -> None:
    """Newer builds of libjpeg-turbo decode them."""
    rgb, kind = noise_rgb(0), ""
    try:
        np.testing.assert_array_equal(decode_image(imagecodecs.jpeg8_encode(rgb, lossless=True)), rgb)
    except ImageError as error:
        kind = error.failure.kind
    assert kind in ("", "unsupported_mode")


@pytest.mark.parametrize("stored", ["CMYK", "YCCK"])
def test_ink_of_another_library(stored: str) -> None:
    ink = np.zeros((32, 48, 4), np.uint8)
    ink[..., 1:3] = 255

    data = imagecodecs.jpeg8_encode(255 - ink, colorspace="CMYK", outcolorspace=stored, level=95)

    assert np.abs(decode_image(data).astype(int) - [255, 0, 0]).max() <= 3


def test_a_jpeg_of_two_components_is_named() -> None:
    whole = encoded(noise_rgb(0), "JPEG")
    at = whole.index(b"\xff\xc0")
    frame = segment(0xC0, whole[at + 4 : at + 9] + b"\2" + whole[at + 10 : at + 16])

    with pytest.raises(ImageError, match="it is a JPEG of 2 components"):
        decode_image(whole[:at] + frame + whole[at + 19 :])


def test_frames_of_a_multi_picture_file_are_one_image() -> None:
    first, second = Image.fromarray(noise_rgb(0)), Image.fromarray(noise_rgb(1))
    data = encoded(first, "MPO", save_all=True, append_images=[second])

    np.testing.assert_array_equal(decode_image(data), decode_image(encoded(first, "JPEG")))


def test_ink_is_stored_inverted_as_adobe_does() -> None:
    """Colours as browsers and OpenCV read them, with and without the Adobe marker."""
    ink = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    whole = encoded(ink, "JPEG", quality=100)
    adobe = whole.index(b"\xff\xee")
    unmarked = whole[:adobe] + whole[adobe + 16 :]

    for data in (whole, unmarked):
        red = decode_image(data)[8, 8]
        assert red[0] > 200
        assert red[1:].max() < 60
    assert Image.open(io.BytesIO(unmarked)).info.get("adobe") is None
