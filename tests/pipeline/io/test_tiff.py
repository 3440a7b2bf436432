"""TIFFs of every kind: the pixels that were written, or an error that names the kind."""

import gc
import io
import itertools
import tracemalloc
from typing import Any

import numpy as np
import pytest
import tifffile
from image_bytes import tiff, written_by_tifffile
from installed import needs
from make import encoded, noise_rgb
from PIL import Image, ImageCms

from pipeline.io import images
from pipeline.io.images import ImageError, decode_image

HW = (37, 45)
ORDERS = [("<", False), (">", False), ("<", True), (">", True)]
COMPRESSIONS = [None, "lzw", "deflate", "adobe_deflate", "packbits", "zstd", "lzma"]
LAYOUTS: list[dict[str, Any]] = [{}, {"rowsperstrip": 5}, {"tile": (16, 32)}]


def _noise(bits: int, *shape: int) -> np.ndarray:
    dtype = np.uint8 if bits <= 8 else np.uint16
    return np.random.default_rng(bits).integers(0, 2**bits, shape).astype(dtype)


def _shown(samples: np.ndarray, bits: int) -> np.ndarray:
    """The nearest 8-bit values."""
    return np.round(samples / (2**bits - 1) * 255).astype(int)


def _refused(data: bytes) -> str:
    with pytest.raises(ImageError) as error:
        decode_image(data, "a.tif")
    assert error.value.failure.kind == "unsupported_mode"
    message = error.value.failure.message
    assert message.startswith("a.tif: not an image we read: it is ")
    return message.removeprefix("a.tif: not an image we read: it is ")


def _gradients() -> np.ndarray:
    """(32, 48, 3) uint8 that JPEG hardly changes."""
    smooth = np.stack(np.meshgrid(np.arange(48) * 4, np.arange(32) * 5), axis=-1)
    return np.concatenate([smooth, 128 + 0 * smooth[..., :1]], axis=-1).astype(np.uint8)


def _with_strips_of(data: bytes, other: bytes) -> bytes:
    """A file with another's packed pixels: tifffile 2026.3.3 packs swapped bytes into big-endian ones."""
    result = bytearray(data)
    page, source = (tifffile.TiffFile(io.BytesIO(file)).pages.first for file in (data, other))
    for start, offset, size in zip(page.dataoffsets, source.dataoffsets, source.databytecounts, strict=True):
        result[start : start + size] = other[offset : offset + size]
    return bytes(result)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bits", [8, 16])
def test_colours(bits: int, planar: str, compression: str | None, order: tuple[str, bool]) -> None:
    """16 bits keep the high 8, as they do in a PNG."""
    samples = _noise(bits, *HW, 3)
    stored = samples.transpose(2, 0, 1) if planar == "separate" else samples
    options = {"photometric": "rgb", "planarconfig": planar, "compression": compression}
    for layout, predictor in itertools.product(LAYOUTS, (False, True)):
        if predictor and compression in (None, "packbits"):
            continue
        data = written_by_tifffile(
            stored, **options, **layout, predictor=predictor, byteorder=order[0], bigtiff=order[1]
        )
        np.testing.assert_array_equal(decode_image(data), samples >> (bits - 8), err_msg=str((layout, predictor)))
        np.testing.assert_array_equal(tifffile.imread(io.BytesIO(data)), stored)


@pytest.mark.parametrize("order", ORDERS, ids=str)
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8, 10, 12, 14, 16])
def test_grey(bits: int, photometric: str, order: tuple[str, bool]) -> None:
    samples = _noise(bits, *HW)
    samples[0, :2] = 0, 2**bits - 1
    expected = _shown(samples, bits)
    if photometric == "miniswhite":
        expected = 255 - expected
    for compression, layout in itertools.product([None, "lzw", "deflate"], LAYOUTS):
        if (bits not in (8, 16) and "tile" in layout) or (bits == 1 and compression):
            continue
        data = written_by_tifffile(
            samples if bits > 1 else samples.astype(bool),
            photometric=photometric,
            bitspersample=bits,
            compression=compression if bits in (8, 16) else None,
            byteorder=order[0],
            bigtiff=order[1],
            **layout,
        )
        if order[0] == ">" and bits > 8 and bits < 16:
            data = _with_strips_of(data, written_by_tifffile(samples, bitspersample=bits, **layout))
        shown = decode_image(data)
        np.testing.assert_array_equal(shown, np.repeat(expected[..., None], 3, axis=2), err_msg=str(layout))


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bits", [2, 4, 10, 12, 14])
def test_colours_of_other_depths(bits: int, planar: str) -> None:
    samples = _noise(bits, *HW, 3)
    stored = samples.transpose(2, 0, 1) if planar == "separate" else samples

    data = written_by_tifffile(stored, photometric="rgb", planarconfig=planar, bitspersample=bits)

    np.testing.assert_array_equal(decode_image(data), _shown(samples, bits))


def test_twelve_bits_as_they_stand_in_a_file() -> None:
    """4095, 2048 and 1: three bytes for two numbers, and rows that begin with a byte."""
    rows = bytes([0xFF, 0xF8, 0x00, 0x00, 0x10])
    data = tiff(3, 1, (258, 3, 1, 12), (273, 4, 1, 200), (279, 4, 1, 5), values=rows)

    assert decode_image(data)[0, :, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
@pytest.mark.parametrize("n_colours", [1, 3])
def test_alpha_shows_white(n_colours: int, kind: str, bits: int, planar: str) -> None:
    alpha = _noise(bits, *HW, 1).astype(float) / (2**bits - 1)
    colours = _noise(bits, *HW, n_colours).astype(float) / (2**bits - 1)
    stored = np.concatenate([colours * alpha if kind == "assocalpha" else colours, alpha], axis=-1)
    stored = np.round(stored * (2**bits - 1)).astype(np.uint8 if bits == 8 else np.uint16)
    options = {"photometric": "rgb" if n_colours == 3 else "minisblack", "extrasamples": [kind], "planarconfig": planar}
    data = written_by_tifffile(stored.transpose(2, 0, 1) if planar == "separate" else stored, **options)

    shown = decode_image(data).astype(int)

    expected = colours if kind == "unspecified" else colours * alpha + 1 - alpha
    assert np.abs(shown - 255 * expected).max() <= 3


def test_further_samples_are_no_colours() -> None:
    samples = _noise(16, *HW, 6)
    for extra, expected in (["unspecified"] * 3, samples[..., :3] >> 8), (["unassalpha", 0, 0], None):
        data = written_by_tifffile(samples, photometric="rgb", extrasamples=extra, planarconfig="contig")
        shown = decode_image(data)
        if expected is not None:
            np.testing.assert_array_equal(shown, expected)
        else:
            alpha = samples[..., 3:4] / 65535
            assert np.abs(shown - (samples[..., :3] / 257 * alpha + 255 * (1 - alpha))).max() <= 2


def test_grey_of_many_channels_is_none() -> None:
    data = written_by_tifffile(_noise(16, 3, *HW), planarconfig="separate")

    assert _refused(data) == "a TIFF of 16-bit grey pixels with 3 samples a pixel"


@pytest.mark.parametrize("highest", [65535, 255])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_palettes_are_of_16_bit_colours_or_in_some_files_of_8(bits: int, highest: int) -> None:
    indices = _noise(bits, *HW)
    colours = np.random.default_rng(0).integers(0, highest + 1, (3, 2**bits)).astype(np.uint16)
    colours[:, 0] = highest
    shown = (colours >> 8 if highest == 65535 else colours).T

    if bits >= 8:
        data = written_by_tifffile(indices, photometric="palette", colormap=colours)
    else:
        packed = np.packbits(np.unpackbits(indices[..., None], axis=-1)[..., 8 - bits :].reshape(HW[0], -1), axis=-1)
        table = colours.astype("<u2").tobytes()
        data = tiff(
            HW[1],
            HW[0],
            (258, 3, 1, bits),
            (262, 3, 1, 3),
            (273, 4, 1, 200 + len(table)),
            (279, 4, 1, packed.size),
            (320, 3, colours.size, 200),
            values=table + packed.tobytes(),
        )
    np.testing.assert_array_equal(decode_image(data), shown[indices])


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("bits", [8, 16])
def test_ink(bits: int, planar: str) -> None:
    ink = _noise(bits, *HW, 4)
    data = written_by_tifffile(
        ink.transpose(2, 0, 1) if planar == "separate" else ink, photometric="separated", planarconfig=planar
    )

    paper = 1 - ink / (2**bits - 1)
    assert np.abs(decode_image(data) - 255 * paper[..., :3] * paper[..., 3:]).max() <= 2


def test_cielab() -> None:
    rgb = Image.fromarray(noise_rgb(0, HW))
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(rgb, to_lab)
    assert lab is not None
    stored = np.asarray(lab)  # a* and b* are signed, as in a file

    contiguous = decode_image(written_by_tifffile(stored, photometric="cielab", planarconfig="contig"))

    assert np.abs(contiguous.astype(int) - np.asarray(rgb)).mean() < 3
    white_and_grey = np.array([[[255, 0, 0], [136, 0, 0]]], np.uint8)  # L* of 100 and 53.4
    neutral = decode_image(written_by_tifffile(white_and_grey, photometric="cielab", planarconfig="contig"))
    assert np.abs(neutral.astype(int) - [[[255] * 3, [127] * 3]]).max() <= 3
    for options in {"compression": "lzw"}, {"compression": "deflate", "tile": (16, 16)}:
        data = written_by_tifffile(stored, photometric="cielab", planarconfig="contig", **options)
        np.testing.assert_array_equal(decode_image(data), contiguous)
    apart = written_by_tifffile(stored.transpose(2, 0, 1), photometric="cielab", planarconfig="separate")
    np.testing.assert_array_equal(decode_image(apart), contiguous)


@pytest.mark.parametrize(
    "compression",
    [
        pytest.param("raw", marks=needs("pillow", "13", "says that they are truncated")),
        "tiff_lzw",
        "tiff_adobe_deflate",
        "jpeg",
    ],
)
def test_ycbcr_written_by_pillow(compression: str) -> None:
    rgb = _gradients()

    data = encoded(Image.fromarray(rgb).convert("YCbCr"), "TIFF", compression=compression)

    assert np.abs(decode_image(data).astype(int) - rgb).mean() < 4


@pytest.mark.parametrize("subsampling", [(1, 1), (2, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("options", LAYOUTS, ids=str)
def test_jpeg_in_tiff_is_as_another_library_decodes_it(options: dict[str, Any], subsampling: tuple[int, int]) -> None:
    rgb = _gradients()
    layout = {"rowsperstrip": 16} if "rowsperstrip" in options else options
    stored = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    data = written_by_tifffile(stored, photometric="ycbcr", compression="jpeg", subsampling=subsampling, **layout)

    second = tifffile.imread(io.BytesIO(data))

    assert np.abs(decode_image(data).astype(int) - second).max() <= 6
    assert np.abs(decode_image(data).astype(int) - rgb).mean() < 5


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax(compression: str) -> None:
    bits = noise_rgb(0, HW)[..., 0] > 128

    data = encoded(Image.fromarray(bits), "TIFF", compression=compression)

    np.testing.assert_array_equal(decode_image(data)[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize(
    ("array", "options", "kind"),
    [
        (np.zeros(HW, np.int8), {}, "a TIFF of 8-bit signed grey pixels"),
        (np.zeros(HW, np.int16), {}, "a TIFF of 16-bit signed grey pixels"),
        (np.zeros(HW, np.uint32), {}, "a TIFF of 32-bit grey pixels"),
        (np.zeros(HW, np.int32), {}, "a TIFF of 32-bit signed grey pixels"),
        (np.zeros(HW, np.float16), {}, "a TIFF of 16-bit float grey pixels"),
        (np.zeros(HW, np.float32), {}, "a TIFF of 32-bit float grey pixels"),
        (np.zeros(HW, np.float64), {}, "a TIFF of 64-bit float grey pixels"),
        (np.zeros(HW, np.complex64), {}, "a TIFF of 64-bit complex grey pixels"),
        (np.zeros((*HW, 3), np.float32), {"photometric": "rgb"}, "a TIFF of 32-bit float RGB pixels"),
        (np.zeros((*HW, 3), np.int16), {"photometric": "rgb"}, "a TIFF of 16-bit signed RGB pixels"),
        (np.zeros((3, *HW), np.float32), {"photometric": "rgb"}, "a TIFF of 32-bit float RGB pixels"),
        (np.zeros(HW, np.uint16), {"photometric": "cfa"}, "a camera's raw data in a TIFF (DNG, NEF, ARW or the like)"),
        (
            np.zeros((*HW, 3), np.uint16),
            {"photometric": "linear_raw", "planarconfig": "contig"},
            "a camera's raw data in a TIFF (DNG, NEF, ARW or the like)",
        ),
        (
            np.zeros((*HW, 3), np.uint16),
            {"photometric": "cielab", "planarconfig": "contig"},
            "a TIFF of 16-bit CIELAB pixels",
        ),
        (
            np.zeros(HW, np.uint16),
            {"compression": "jpeg2000"},
            "a TIFF of 16-bit grey pixels, compressed as JPEG2000",
        ),
    ],
    ids=str,
)
def test_kinds_that_are_not_read_are_named(array: np.ndarray, options: dict[str, Any], kind: str) -> None:
    assert _refused(written_by_tifffile(array, **options)) == kind


def test_numbers_of_an_undefined_kind_are_named() -> None:
    assert _refused(tiff(8, 8, (339, 3, 1, 4))) == "a TIFF of 8-bit undefined grey pixels"


@pytest.mark.parametrize("bits", [8, 16])
def test_the_picture_of_a_camera_file_is_below_its_thumbnail(bits: int) -> None:
    picture, preview = _noise(bits, *HW, 3), np.zeros((8, 10, 3), np.uint8)
    thumbnail = (preview, {"photometric": "rgb", "subfiletype": 1, "subifds": 1})

    for bigtiff, byteorder in itertools.product((False, True), "<>"):
        layout = {"bigtiff": bigtiff, "byteorder": byteorder, "photometric": "rgb"}
        data = written_by_tifffile(thumbnail, picture, **layout)
        np.testing.assert_array_equal(decode_image(data), picture >> (bits - 8))
        data = written_by_tifffile((preview, {"subfiletype": 1}), picture, **layout)
        np.testing.assert_array_equal(decode_image(data), picture >> (bits - 8))


def test_raw_data_below_a_thumbnail_are_named_and_not_shown_as_the_thumbnail() -> None:
    thumbnail = (np.zeros((8, 10, 3), np.uint8), {"photometric": "rgb", "subfiletype": 1, "subifds": 2})
    preview = (np.zeros((16, 20, 3), np.uint8), {"photometric": "rgb", "subfiletype": 1})

    data = written_by_tifffile(thumbnail, (_noise(16, *HW), {"photometric": "cfa"}), preview)

    assert _refused(data) == "a camera's raw data in a TIFF (DNG, NEF, ARW or the like)"


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_kind_is_turned_once(orientation: int, bits: int) -> None:
    picture = _noise(bits, *HW, 3)
    turned = {"extratags": [(274, "H", 1, orientation, True)]}
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = decode_image(encoded((picture >> (bits - 8)).astype(np.uint8), exif=exif))
    thumbnail = (np.zeros((8, 10, 3), np.uint8), {"subfiletype": 1, "subifds": 1, **turned})

    for pages in [(picture, turned)], [(np.zeros((9, 9, 3), np.uint8), {"subfiletype": 1}), (picture, turned)]:
        np.testing.assert_array_equal(decode_image(written_by_tifffile(*pages, photometric="rgb")), expected)
    np.testing.assert_array_equal(decode_image(written_by_tifffile(thumbnail, picture, photometric="rgb")), expected)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_a_picture_that_lacks_pixels_is_no_picture(bits: int) -> None:
    for compression, planar in itertools.product([None] if bits == 12 else [None, "lzw", "deflate"], (False, True)):
        samples = _noise(bits, 3, *HW) if planar else _noise(bits, *HW)
        kind = {"photometric": "rgb", "planarconfig": "separate"} if planar else {}
        data = written_by_tifffile(samples, bitspersample=bits, compression=compression, **kind)
        for length in range(8, len(data) - 1, 1 + len(data) // 40):
            with pytest.raises(ImageError) as error:
                decode_image(data[:length])
            assert error.value.failure.kind in ("truncated", "corrupt", "not_an_image")


def test_fewer_strips_than_rows_ask_for_are_no_picture() -> None:
    data = tiff(8, 8, (258, 3, 1, 16), (278, 4, 1, 1))

    with pytest.raises(ImageError, match="strips or tiles of the TIFF are missing"):
        decode_image(data)


@pytest.mark.parametrize("bits", [8, 16])
def test_what_was_read_does_not_stay_in_memory(bits: int) -> None:
    """tifffile's objects refer to each other: only the garbage collector would free them."""
    data = bytearray(written_by_tifffile(_noise(bits, 300, 300)))
    gc.disable()
    try:
        tracemalloc.start()
        for _ in range(10):
            decode_image(bytes(data))
        assert tracemalloc.get_traced_memory()[0] < 2 * len(data)
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("hw", [(0, 8), (8, 0)])
def test_no_pixels_are_no_picture(hw: tuple[int, int], bits: int) -> None:
    with pytest.raises(ImageError, match=f"the TIFF has {hw[1]} x {hw[0]} pixels"):
        decode_image(tiff(hw[1], hw[0], (258, 3, 1, bits)))


def test_a_strip_without_data_is_no_picture() -> None:
    data = tiff(8, 8, (258, 3, 1, 16), (273, 4, 1, 0), (279, 4, 1, 0))

    with pytest.raises(ImageError, match="a strip or tile of the TIFF has no data"):
        decode_image(data)


def test_pixels_are_counted_in_the_directory_that_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written_by_tifffile((np.zeros((4, 5), np.uint8), {"subfiletype": 1}), _noise(16, *HW))
    monkeypatch.setattr(images, "MAX_PIXELS", HW[0] * HW[1])
    assert decode_image(data).shape == (*HW, 3)

    monkeypatch.setattr(images, "MAX_PIXELS", HW[0] * HW[1] - 1)
    with pytest.raises(ImageError, match="45 x 37 pixels, at most 1664 are read") as error:
        decode_image(data)
    assert error.value.failure.kind == "too_large"


def test_a_tile_is_no_larger_than_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written_by_tifffile(_noise(16, 16, 16), tile=(64, 64))
    monkeypatch.setattr(images, "MAX_PIXELS", 16 * 16)

    with pytest.raises(ImageError, match="a TIFF with strips or tiles of") as error:
        decode_image(data)
    assert error.value.failure.kind == "too_large"


def test_xmp_turns_nothing() -> None:
    packet = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    picture = noise_rgb(0)
    tag = {"extratags": [(700, "B", len(packet), packet, True)]}

    np.testing.assert_array_equal(decode_image(written_by_tifffile((picture, tag), photometric="rgb")), picture)


def test_old_jpeg() -> None:
    whole = encoded(_gradients(), "JPEG", quality=95, subsampling=0)
    tags = [(258, 3, 1, 8), (259, 3, 1, 6), (262, 3, 1, 6), (277, 3, 1, 3), (513, 4, 1, 200), (514, 4, 1, len(whole))]
    strip = [(273, 4, 1, 200), (279, 4, 1, len(whole)), (530, 3, 2, 1 | 1 << 16)]

    data = tiff(48, 32, *tags, *strip, values=whole)

    assert np.abs(decode_image(data).astype(int) - _gradients()).mean() < 2


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack", "miniswhite"])
def test_jpeg_of_other_colours(photometric: str, planar: str) -> None:
    samples = _gradients() if photometric == "rgb" else _gradients()[..., 0]
    stored = samples.transpose(2, 0, 1) if planar == "separate" and photometric == "rgb" else samples
    options = {"planarconfig": planar} if photometric == "rgb" else {}

    shown = decode_image(written_by_tifffile(stored, photometric=photometric, compression="jpeg", **options))

    expected = samples if photometric == "rgb" else np.repeat(samples[..., None], 3, axis=2)
    assert np.abs((255 - shown if photometric == "miniswhite" else shown).astype(int) - expected).mean() < 2


@needs("pillow", "13", "says that they are truncated")
def test_ycbcr_without_compression_is_read_where_no_colour_is_left_out() -> None:
    stored = np.asarray(Image.fromarray(_gradients()).convert("YCbCr"))
    left_out = [(258, 3, 1, 8), (262, 3, 1, 6), (277, 3, 1, 3), (279, 4, 1, 48 * 32 * 3 // 2), (530, 3, 2, 2 | 2 << 16)]

    whole = decode_image(written_by_tifffile(stored, photometric="ycbcr", planarconfig="contig"))
    assert np.abs(whole.astype(int) - _gradients()).mean() < 2
    assert _refused(tiff(48, 32, *left_out, values=bytes(48 * 32 * 3))) == "a TIFF of 8-bit YCBCR pixels"
    apart = written_by_tifffile(stored.transpose(2, 0, 1), photometric="ycbcr", planarconfig="separate")
    assert _refused(apart) == "a TIFF of 8-bit YCBCR pixels"
