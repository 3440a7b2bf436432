"""PNGs of every depth and kind of colour, compared with the written pixels and with imagecodecs (libpng)."""

import struct

import imagecodecs
import numpy as np
import pytest
from image_bytes import png
from PIL import Image

from pipeline.io.images import decode_image

HW = (9, 13)
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
SAMPLES = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def _samples(depth: int, n_samples: int) -> np.ndarray:
    return np.random.default_rng(depth).integers(0, 2**depth, (*HW, n_samples))


def _shown(samples: np.ndarray, depth: int) -> np.ndarray:
    """Grey is rounded to 8 bits, colours of 16 bits keep the high 8."""
    if depth == 16 and samples.shape[-1] > 1:
        return samples >> 8
    return np.broadcast_to(np.round(samples / (2**depth - 1) * 255).astype(int), (*HW, 3))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_and_its_key_colour(depth: int) -> None:
    samples = _samples(depth, 1)
    key = int(samples[4, 5, 0])
    expected = _shown(samples, depth)
    is_key = samples == key

    np.testing.assert_array_equal(decode_image(png(samples, depth, GREY)), expected)
    keyed = decode_image(png(samples, depth, GREY, (b"tRNS", struct.pack(">H", key))))
    np.testing.assert_array_equal(keyed, np.where(is_key, 255, expected))


@pytest.mark.parametrize("depth", [8, 16])
def test_colours_and_their_key_colour(depth: int) -> None:
    samples = _samples(depth, 3)
    key = samples[4, 5].copy()
    samples[0, 0], samples[0, 1] = key, key ^ 1  # one that differs in the lowest bits only
    expected = samples >> (depth - 8)
    is_key = (samples == key).all(axis=-1, keepdims=True)

    np.testing.assert_array_equal(decode_image(png(samples, depth, RGB)), expected)
    keyed = decode_image(png(samples, depth, RGB, (b"tRNS", struct.pack(">3H", *key))))
    np.testing.assert_array_equal(keyed, np.where(is_key, 255, expected))
    assert is_key.sum() >= 2
    assert not is_key[0, 1]


@pytest.mark.parametrize("rows", [1, 300])
def test_a_key_colour_is_found_in_every_row_of_a_turned_image(rows: int) -> None:
    samples = np.full((rows, 2, 3), 0x1234)
    samples[-1] = 0xABCD
    exif = Image.Exif()
    exif[0x0112] = 6
    chunks = (b"tRNS", struct.pack(">3H", *[0xABCD] * 3)), (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))

    shown = decode_image(png(samples, 16, RGB, *chunks))

    assert shown.shape == (2, rows, 3)
    assert (shown[:, 0] == 255).all()
    assert (shown[:, 1:] == 0x12).all()


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colour_type", [GREY_ALPHA, RGBA])
def test_alpha_shows_white(colour_type: int, depth: int) -> None:
    samples = _samples(depth, SAMPLES[colour_type])

    shown = decode_image(png(samples, depth, colour_type)).astype(int)

    alpha = samples[..., -1:] / (2**depth - 1)
    expected = samples[..., :-1] / (2**depth - 1) * alpha + 1 - alpha
    assert np.abs(shown - 255 * expected).max() <= 2


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palettes_and_their_alpha(depth: int) -> None:
    indices = _samples(depth, 1)
    palette = np.random.default_rng(9).integers(0, 256, (2**depth, 3))
    alpha = np.random.default_rng(8).integers(0, 256, 2**depth)
    colours = (b"PLTE", palette.astype(np.uint8).tobytes())

    opaque = decode_image(png(indices, depth, PALETTE, colours))
    some = decode_image(png(indices, depth, PALETTE, colours, (b"tRNS", alpha.astype(np.uint8).tobytes())))
    first = decode_image(png(indices, depth, PALETTE, colours, (b"tRNS", b"\0")))

    np.testing.assert_array_equal(opaque, palette[indices[..., 0]])
    cover = alpha[indices] / 255
    assert np.abs(some - (palette[indices[..., 0]] * cover + 255 * (1 - cover))).max() <= 1
    np.testing.assert_array_equal(first, np.where(indices == 0, 255, palette[indices[..., 0]]))


@pytest.mark.parametrize(
    "chunk",
    [
        (b"gAMA", struct.pack(">I", 100_000)),
        (b"gAMA", struct.pack(">I", 45_455)),
        (b"sBIT", b"\5\5\5"),
        (b"bKGD", struct.pack(">3H", 1, 2, 3)),
        (b"sRGB", b"\0"),
        (b"cHRM", struct.pack(">8I", *[30_000] * 8)),
        (b"hIST", bytes(4)),
        (b"pHYs", struct.pack(">IIB", 2, 1, 0)),
    ],
    ids=lambda chunk: chunk[0].decode(),
)
def test_what_is_told_of_the_colours_changes_none(chunk: tuple[bytes, bytes]) -> None:
    samples = _samples(8, 3)

    np.testing.assert_array_equal(decode_image(png(samples, 8, RGB, chunk)), samples)


@pytest.mark.parametrize(("depth", "colour_type"), [(8, GREY), (8, RGB), (16, RGB), (8, RGBA)])
def test_another_library_sees_the_same(depth: int, colour_type: int) -> None:
    samples = _samples(depth, SAMPLES[colour_type])
    samples[..., 3:] = 2**depth - 1
    data = png(samples, depth, colour_type)

    second = imagecodecs.png_decode(data).reshape(*HW, -1)[..., :3] >> (depth - 8)

    np.testing.assert_array_equal(decode_image(data), np.broadcast_to(second, (*HW, 3)))


@pytest.mark.parametrize(("depth", "colour_type"), [(1, GREY), (8, RGB), (16, RGB), (16, GREY)])
def test_a_missing_end_is_none_of_our_business(depth: int, colour_type: int) -> None:
    samples = _samples(depth, SAMPLES[colour_type])
    key = (b"tRNS", struct.pack(f">{SAMPLES[colour_type]}H", *samples[0, 0]))
    whole = png(samples, depth, colour_type, key)

    for missing in range(1, 13):
        np.testing.assert_array_equal(decode_image(whole[:-missing]), decode_image(whole))
