"""BMPs: which of them have alpha, and which bits of a pixel are which colour."""

import struct

import numpy as np
import pytest
from make import encoded, noise_rgb
from PIL import Image

from pipeline.io.images import decode_image

HW = (5, 7)
RGBA8 = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)


def bmp(pixels: np.ndarray, header_bytes: int, masks: tuple[int, ...] = (), compression: int | None = None) -> bytes:
    """A BMP of (H, W) whole numbers of 16 or 32 bits, whose colours are under `masks`."""
    bits = 8 * pixels.itemsize
    compression = (3 if masks else 0) if compression is None else compression
    rows = np.ascontiguousarray(pixels[::-1]).view(np.uint8).reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    core = struct.pack("<IiiHHIIiiII", header_bytes, HW[1], HW[0], 1, bits, compression, rows.size, 0, 0, 0, 0)
    colours = struct.pack(f"<{len(masks)}I", *masks)
    header = (core + colours).ljust(header_bytes, b"\0") if header_bytes > 40 else core + colours
    return b"BM" + struct.pack("<IHHI", 14 + len(header) + rows.size, 0, 0, 14 + len(header)) + header + rows.tobytes()


def _packed(rgb: np.ndarray, alpha: np.ndarray | int) -> np.ndarray:
    red, green, blue = (rgb[..., index].astype(np.uint32) for index in range(3))
    return (np.uint32(1) * alpha << 24 | red << 16 | green << 8 | blue).astype("<u4")


@pytest.mark.parametrize("header_bytes", [56, 108, 124])
def test_alpha_that_is_0_everywhere_is_none(header_bytes: int) -> None:
    rgb = noise_rgb(0, HW)

    np.testing.assert_array_equal(decode_image(bmp(_packed(rgb, 0), header_bytes, RGBA8)), rgb)


@pytest.mark.parametrize("header_bytes", [56, 108, 124])
def test_alpha_that_is_there_shows_white(header_bytes: int) -> None:
    rgb, alpha = noise_rgb(0, HW), noise_rgb(1, HW)[..., 0].astype(np.uint32)
    alpha[0, :2] = 0, 255

    shown = decode_image(bmp(_packed(rgb, alpha), header_bytes, RGBA8)).astype(int)

    cover = alpha[..., None] / 255
    assert np.abs(shown - (rgb * cover + 255 * (1 - cover))).max() <= 1


@pytest.mark.parametrize("header_bytes", [40, 108, 124])
@pytest.mark.parametrize("filler", [0, 255, 77])
def test_a_fourth_byte_that_is_no_alpha_is_nothing(filler: int, header_bytes: int) -> None:
    rgb = noise_rgb(0, HW)

    np.testing.assert_array_equal(decode_image(bmp(_packed(rgb, filler), 40)), rgb)
    masked = bmp(_packed(rgb, filler), header_bytes, RGBA8[:3])
    np.testing.assert_array_equal(decode_image(masked), rgb)


@pytest.mark.parametrize(
    ("masks", "bits"),
    [((0xF800, 0x7E0, 0x1F), (5, 6, 5)), ((0x7C00, 0x3E0, 0x1F), (5, 5, 5)), ((), (5, 5, 5))],
)
def test_colours_of_a_few_bits(masks: tuple[int, ...], bits: tuple[int, int, int]) -> None:
    samples = np.stack([noise_rgb(0, HW)[..., index] >> (8 - bits[index]) for index in range(3)], axis=-1).astype(int)
    red, green, blue = np.moveaxis(samples, -1, 0)
    packed = (red << (bits[1] + bits[2]) | green << bits[2] | blue).astype("<u2")

    shown = decode_image(bmp(packed, 40, masks)).astype(int)

    assert np.abs(shown - samples * 255 / (2 ** np.array(bits) - 1)).max() < 1.01


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_what_pillow_writes(mode: str) -> None:
    image = Image.fromarray(noise_rgb(0, HW)).convert(mode)

    np.testing.assert_array_equal(decode_image(encoded(image, "BMP")), np.asarray(image.convert("RGB")))
