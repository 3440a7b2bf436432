"""Whatever bytes an image file holds: pixels or an ImageError, in bounded memory and time, and nothing else."""

import re
import struct
import zlib

import confined
import numpy as np
from damaged import damaged
from hypothesis import given
from image_bytes import png, written_by_tifffile
from make import encoded, noise_rgb
from PIL import Image

from pipeline.io.image_formats import register_heif
from pipeline.io.images import ImageError, decode_image
from schemas.failures import ERROR_KINDS


def _files() -> dict[str, bytes]:
    """Small images of every format and of many kinds."""
    register_heif()
    rgb = Image.fromarray(noise_rgb(0, (30, 40)))
    alpha = rgb.convert("RGBA")
    alpha.putalpha(90)
    turned = Image.Exif()
    turned[0x0112], turned[0x010F] = 6, "maker"
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    return {
        "jpeg": encoded(rgb, "JPEG", exif=turned, icc_profile=bytes(40), comment=b"c"),
        "jpeg, progressive": encoded(rgb, "JPEG", progressive=True, restart_marker_blocks=1),
        "jpeg, cmyk": encoded(rgb.convert("CMYK"), "JPEG"),
        "jpeg, several": encoded(rgb, "MPO", **frames),
        "png": encoded(rgb, exif=turned, icc_profile=bytes(40)),
        "png, palette": encoded(rgb.quantize(7), transparency=2),
        "png, alpha": encoded(alpha),
        "png, 16 bits": encoded(np.arange(1200, dtype=np.uint16).reshape(30, 40)),
        "png, moving": encoded(rgb, **frames),
        "webp": encoded(rgb, "WEBP", exif=turned, xmp=b"<x/>"),
        "webp, lossless": encoded(alpha, "WEBP", lossless=True),
        "webp, moving": encoded(rgb, "WEBP", **frames),
        "tiff": encoded(rgb, "TIFF", exif=turned),
        "tiff, big": encoded(rgb, "TIFF", big_tiff=True),
        **{
            f"tiff, {compression}": encoded(rgb, "TIFF", compression=compression)
            for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
        },
        "tiff, fax": encoded(rgb.convert("1"), "TIFF", compression="group4"),
        **{f"tiff, {name}": data for name, data in _deep_tiffs().items()},
        "png, key colour": png(noise_rgb(0, (9, 13)).astype(int) * 257, 16, 2, (b"tRNS", bytes(6))),
        "avif": encoded(rgb, "AVIF", exif=turned),
        "avif, moving": encoded(alpha, "AVIF", save_all=True, append_images=[alpha]),
        "heif": encoded(rgb, "HEIF"),
        "heif, alpha": encoded(alpha, "HEIF", exif=turned),
        "jpeg without end": encoded(rgb, "JPEG")[:-2],
        "bmp": encoded(rgb, "BMP"),
        "bmp, palette": encoded(rgb.quantize(7), "BMP"),
        "gif": encoded(rgb, "GIF"),
        "gif, moving": encoded(rgb, "GIF", transparency=0, **frames),
    }


def _deep_tiffs() -> dict[str, bytes]:
    """Small images of the formats that tifffile reads."""
    grey, rgb = (noise_rgb(0, (30, 40)).astype(np.uint16) * 257)[..., 0], noise_rgb(0, (30, 40)).astype(np.uint16) * 257
    apart = {"photometric": "rgb", "planarconfig": "separate"}
    thumbnail = (grey[:4, :4], {"subfiletype": 1, "subifds": 1})
    return {
        "white is zero": written_by_tifffile(grey, photometric="miniswhite"),
        "12 bits": written_by_tifffile(grey >> 4, bitspersample=12, rowsperstrip=7),
        "planes": written_by_tifffile(rgb.transpose(2, 0, 1), **apart),
        "planes, big": written_by_tifffile(rgb.transpose(2, 0, 1), bigtiff=True, byteorder=">", **apart),
        "tiles": written_by_tifffile(rgb, photometric="rgb", tile=(16, 16)),
        "alpha": written_by_tifffile(rgb.repeat(2, 2)[..., :4], photometric="rgb", extrasamples=["assocalpha"]),
        "palette": written_by_tifffile(grey >> 4, photometric="palette", colormap=np.zeros((3, 2**16), np.uint16)),
        "below a thumbnail": written_by_tifffile(thumbnail, grey),
        **{
            f"16 bits, {name}": written_by_tifffile(
                rgb, photometric="rgb", compression=name, predictor=name != "packbits"
            )
            for name in ("lzw", "deflate", "packbits", "zstd", "lzma")
        },
    }


def _with_checksums(data: bytes) -> bytes:
    """A PNG with corrected checksums of its chunks, so that their content is read; other bytes unchanged."""
    if not data.startswith(b"\x89PNG"):
        return data
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        parts.append(data[at:end] + struct.pack(">I", zlib.crc32(data[at + 4 : end])))
        at = end + 4
    return b"".join(parts)


def decode(data: bytes) -> None:
    rgb, failure = None, None
    with confined.no_side_effects():
        try:
            rgb = decode_image(data, "image")
        except ImageError as error:
            failure = error.failure
    if rgb is not None:
        assert (rgb.dtype, rgb.ndim, rgb.shape[2]) == (np.uint8, 3, 3)
    if failure is not None:
        assert failure.stage == "decode"
        assert failure.kind in ERROR_KINDS["decode"]
        assert re.fullmatch(r"image: .+", failure.message), failure.message
        assert "MemoryError" not in failure.message


@confined.budget(1500)
@given(damaged(_files()))
def damaged_images_are_pixels_or_an_error(file: tuple[str, bytes]) -> None:
    decode(_with_checksums(file[1]))


def test_damaged_images_are_pixels_or_an_error() -> None:
    # What libtiff says of a file begins with the name of its function; Pillow logs one line.
    confined.in_own_process(__file__, megabytes=1500, seconds=120, said=r"[\w.]+: .*|More samples per pixel .*")


if __name__ == "__main__":
    confined.check(damaged_images_are_pixels_or_an_error)
