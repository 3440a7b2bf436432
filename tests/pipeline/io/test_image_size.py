import io
import struct
import zlib
from pathlib import Path

import fsspec
import numpy as np
import pytest
from image_bytes import png
from make import encoded, noise_rgb
from PIL import Image

from pipeline.io.image_size import read_image_size
from pipeline.io.images import decode_image

HW = (6, 10)


def exif(orientation: int) -> Image.Exif:
    record = Image.Exif()
    record[0x0112] = orientation
    return record


def check(file: Path, data: bytes, orientation: int) -> None:
    """The size read from the head is that of the decoded picture, in a local file and in an object."""
    file.write_bytes(data)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/image-size-test", data)
    for uri in (str(file), "memory://image-size-test"):
        size = read_image_size(uri)
        assert size is not None
        assert (size.stored_wh, size.orientation) == (HW[::-1], orientation)
        assert size.shown_wh == decode_image(data).shape[1::-1]
    memory.rm("/image-size-test")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_size_and_the_orientation_of_every_format_with_exif(tmp_path, image_format, orientation):
    check(tmp_path / "a", encoded(noise_rgb(0, HW), image_format, exif=exif(orientation)), orientation)


@pytest.mark.parametrize("image_format", ["BMP", "GIF"])
def test_the_size_of_formats_without_exif(tmp_path, image_format):
    check(tmp_path / "a", encoded(noise_rgb(0, HW), image_format), 1)


def test_the_shown_size_of_avif(tmp_path):
    data = encoded(noise_rgb(0, HW), "AVIF", exif=exif(6))
    (tmp_path / "a").write_bytes(data)
    assert read_image_size(str(tmp_path / "a")).shown_wh == decode_image(data).shape[1::-1]


def test_exif_behind_the_pixels_of_a_png(tmp_path):
    data, record = png(np.zeros((*HW, 3)), 8, 2), exif(6).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(record)) + b"eXIf" + record + struct.pack(">I", zlib.crc32(b"eXIf" + record))
    check(tmp_path / "a", data[:-12] + chunk + data[-12:], 6)


def test_a_head_longer_than_what_is_read_of_an_object(tmp_path):
    data = encoded(noise_rgb(0, HW), "JPEG", exif=exif(8), icc_profile=bytes(200_000))
    check(tmp_path / "a", data, 8)


def test_the_picture_of_a_tiff_and_not_its_thumbnail(tmp_path):
    thumbnail, picture = Image.new("RGB", (4, 3)), Image.fromarray(noise_rgb(0, HW))
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    picture.encoderinfo = {"tiffinfo": {274: 6}}
    buffer = io.BytesIO()
    thumbnail.save(buffer, "TIFF", tiffinfo={254: 1}, save_all=True, append_images=[picture])
    check(tmp_path / "a", buffer.getvalue(), 6)


@pytest.mark.parametrize("data", [b"", b"no image", encoded(noise_rgb(0), "JPEG")[:20], b"%PDF-1.4"])
def test_what_is_no_image_has_no_size(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    assert read_image_size(str(tmp_path / "a")) is None
    assert read_image_size(str(tmp_path / "nowhere.jpg")) is None
