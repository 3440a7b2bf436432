"""TIFFs: the picture's directory is read, by Pillow where it is right, else by tifffile.

Pillow reads what has 8 bits or less a sample and its samples together, and whatever is compressed as JPEG or fax. Its
pixels are wrong for planes apart, for 16-bit grey with white at zero, for 12 bits, and for palettes of 8-bit numbers.
"""

import io
import logging
import math
from typing import Any

import numpy as np
import tifffile
from PIL import ExifTags, Image, UnidentifiedImageError
from tifffile import PHOTOMETRIC, SAMPLEFORMAT

from nemf.rgb import load_pixels, set_orientation
from pipeline.io.image_formats import CostlyError, UnsupportedError
from pipeline.io.tiff_directories import first_directory, is_big, move_first_directory, picture_directory

_N_COLOURS = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.SEPARATED: 4,
    PHOTOMETRIC.CIELAB: 3,
}
"""Number of samples of a pixel without alpha, for the kinds of pixels that tifffile reads."""
_MODES = {
    PHOTOMETRIC.MINISWHITE: "L",
    PHOTOMETRIC.MINISBLACK: "L",
    PHOTOMETRIC.RGB: "RGB",
    PHOTOMETRIC.PALETTE: "RGB",
    PHOTOMETRIC.SEPARATED: "CMYK",
    PHOTOMETRIC.CIELAB: "LAB",
}
_WITHOUT_ALPHA = (PHOTOMETRIC.SEPARATED, PHOTOMETRIC.CIELAB)
_CAMERA_RAW = (PHOTOMETRIC.CFA, PHOTOMETRIC.LINEAR_RAW)
_LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)
"""Compressions that tifffile reads: none, LZW, Deflate (two numbers), PackBits, LZMA, Zstandard."""
_ALPHA_MODES = {1: "a", 2: "A"}
"""The suffix of Pillow's modes by the value of ExtraSamples: colours multiplied by alpha, or not."""
_COLOR_MAP = 320
_MAX_BITS = 16
_NUMBERS = {
    SAMPLEFORMAT.UINT: "",
    SAMPLEFORMAT.INT: "signed ",
    SAMPLEFORMAT.IEEEFP: "float ",
    SAMPLEFORMAT.COMPLEXINT: "complex ",
    SAMPLEFORMAT.COMPLEXIEEEFP: "complex ",
}
_MAX_SEGMENT_BYTES_PER_PIXEL = 8
"""Maximum bytes of a strip or tile for each pixel allowed: it may be the whole picture with four samples of 16 bits."""
_BUFFER_BYTES = 2**24
_ROWS = 64

logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # faults of a file are in its MATCHES row


def read_tiff(data: bytes, max_pixels: int) -> Image.Image:
    """The picture in a TIFF, decoded, for nemf.rgb.to_rgb.

    Raises CostlyError for more than `max_pixels` and other costs, UnsupportedError for kinds of pixels that are not
    read, and whatever Pillow and tifffile raise for damaged files.
    """
    directory = picture_directory(data)
    if directory is None:
        return _read_by_pillow(data, max_pixels)
    if directory.offset != first_directory(data):
        data = move_first_directory(data, directory.offset)
    with io.BytesIO(data) as file:  # tifffile's objects refer to each other: what is not closed stays in memory
        try:
            page = tifffile.TiffFile(file).pages.first
        except tifffile.TiffFileError:
            return _read_by_pillow(data, max_pixels)
        image = _read_page(page, data, max_pixels)
        if directory.orientation != 1 and not _is_turned_by_pillow(page, image):
            set_orientation(image, directory.orientation)
    return image


def _read_page(page: Any, data: bytes, max_pixels: int) -> Image.Image:
    width, height = page.imagewidth, page.imagelength
    if width * height == 0:
        raise ValueError(f"the TIFF has {width} x {height} pixels")
    if width * height > max_pixels:
        raise CostlyError(f"{width} x {height} pixels, at most {max_pixels} are read")
    bits, is_plain = page.bitspersample, page.compression in _LOSSLESS and page.photometric in _N_COLOURS
    if page.photometric in _CAMERA_RAW or page.sampleformat != SAMPLEFORMAT.UINT:
        raise UnsupportedError(_kind(page))
    if not isinstance(bits, int) or bits > _MAX_BITS or page.imagedepth != 1:
        raise UnsupportedError(_kind(page))
    if (page.photometric == PHOTOMETRIC.CIELAB and bits != 8) or _is_raw_and_subsampled(page):
        raise UnsupportedError(_kind(page))
    if bits <= 8 and not (is_plain and _is_wrong_in_pillow(page, data)):
        try:
            return _read_by_pillow(data, max_pixels)
        except OSError as error:
            is_unknown = isinstance(error, UnidentifiedImageError) or page.compression == tifffile.COMPRESSION.WEBP
            if not is_unknown:
                raise
            if not is_plain:
                raise UnsupportedError(_kind(page)) from error
    if not is_plain:
        raise UnsupportedError(_kind(page))
    return _read_by_tifffile(page, max_pixels)


def _is_wrong_in_pillow(page: Any, data: bytes) -> bool:
    """Whether Pillow shows other pixels than the file has, in kinds of at most 8 bits a sample that tifffile reads."""
    planes_apart = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
    is_big_of_motorola = data.startswith(b"MM") and is_big(data)
    has_small_palette = page.photometric == PHOTOMETRIC.PALETTE and np.max(page.tags[_COLOR_MAP].value) < 256
    return planes_apart or is_big_of_motorola or has_small_palette


def _is_raw_and_subsampled(page: Any) -> bool:
    """YCbCr that is not compressed, with fewer samples of colour than pixels, or with planes apart."""
    n_bytes = 3 * page.imagewidth * page.imagelength
    is_raw = page.photometric == PHOTOMETRIC.YCBCR and page.compression == tifffile.COMPRESSION.NONE
    return is_raw and (page.planarconfig != tifffile.PLANARCONFIG.CONTIG or sum(page.databytecounts) < n_bytes)


def _read_by_pillow(data: bytes, max_pixels: int) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=("TIFF",))
    if image.width * image.height > max_pixels:
        raise CostlyError(f"{image.width} x {image.height} pixels, at most {max_pixels} are read")
    load_pixels(image)
    return image


def _is_turned_by_pillow(page: Any, image: Image.Image) -> bool:
    """Pillow turns a TIFF when it decodes it, by the tag of its own directory."""
    return image.format == "TIFF" and ExifTags.Base.Orientation in page.tags


def _read_by_tifffile(page: Any, max_pixels: int) -> Image.Image:
    """The picture of a page of whole numbers, strip by strip, or tile by tile, in 8 bits."""
    if math.prod(page.chunks) * page.dtype.itemsize > _MAX_SEGMENT_BYTES_PER_PIXEL * max_pixels:
        raise CostlyError(f"a TIFF with strips or tiles of {page.chunks} samples, more than {max_pixels} pixels need")
    if math.prod(page.chunked) > min(len(page.dataoffsets), len(page.databytecounts)):
        raise ValueError("strips or tiles of the TIFF are missing")
    n_colours, alpha = _N_COLOURS[page.photometric], _alpha(page)
    mode = _MODES[page.photometric] + (_ALPHA_MODES[page.extrasamples[alpha - n_colours]] if alpha else "")
    palette = _palette(page) if page.photometric == PHOTOMETRIC.PALETTE else None
    pixels = np.empty((page.imagelength, page.imagewidth, len(mode)), np.uint8)
    for segment, (plane, _, top, left, _), _ in page.segments(maxworkers=1, buffersize=_BUFFER_BYTES):
        if segment is None:
            raise ValueError("a strip or tile of the TIFF has no data")
        for row in range(0, segment.shape[1], _ROWS):
            block = segment[0, row : row + _ROWS]
            target = pixels[top + row : top + row + len(block), left : left + block.shape[1]]
            block = block[: target.shape[0], : target.shape[1]]  # tiles reach beyond the picture
            for index in range(block.shape[2]):
                sample = plane + index
                if palette is not None and sample == 0:
                    target[..., :3] = palette[block[..., index].astype(np.uint16)]  # a bool array would be a mask
                elif sample < n_colours:
                    target[..., sample] = _to_eight_bits(block[..., index], page)
                elif sample == alpha:
                    target[..., -1] = _scaled(block[..., index], page.bitspersample)
    height, width = pixels.shape[:2]
    return Image.frombuffer(mode, (width, height), pixels, "raw", mode, 0, 1)


def _alpha(page: Any) -> int | None:
    """The index of the sample that is alpha; further ones are ignored. Raises UnsupportedError for grey with many."""
    n_colours, n_samples = _N_COLOURS[page.photometric], page.samplesperpixel
    extra = tuple(page.extrasamples)
    if page.photometric == PHOTOMETRIC.RGB and n_samples == 4 and not extra:
        page.extrasamples = extra = (2,)  # Pillow also reads it as alpha
    alpha = n_colours if extra and extra[0] in _ALPHA_MODES else None
    is_channels = n_colours == 1 and n_samples > 2
    if n_samples < n_colours or is_channels or (alpha and page.photometric in _WITHOUT_ALPHA):
        raise UnsupportedError(f"{_kind(page)} with {n_samples} samples a pixel")
    return alpha


def _palette(page: Any) -> np.ndarray:
    """(2**bits, 3) uint8 colours; in some files the numbers of 16 bits are of 8 bits."""
    colours = np.asarray(page.tags[_COLOR_MAP].value, np.uint16).reshape(3, -1).T
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)


def _to_eight_bits(samples: np.ndarray, page: Any) -> np.ndarray:
    """Grey, or one colour: grey is rounded, colours of 16 bits keep their high 8 bits as they do in Pillow."""
    if page.photometric in (PHOTOMETRIC.RGB, PHOTOMETRIC.SEPARATED):
        return _scaled(samples, page.bitspersample)
    grey = _rounded(samples, page.bitspersample)
    return 255 - grey if page.photometric == PHOTOMETRIC.MINISWHITE else grey


def _scaled(samples: np.ndarray, bits: int) -> np.ndarray:
    return (samples >> 8).astype(np.uint8) if bits == 16 else _rounded(samples, bits)


def _rounded(samples: np.ndarray, bits: int) -> np.ndarray:
    highest = 2**bits - 1
    return ((samples.astype(np.uint32) * 255 + highest // 2) // highest).astype(np.uint8)


def _kind(page: Any) -> str:
    """The kind of a page's pixels in words, such as "a TIFF of 32-bit float RGB pixels"."""
    if page.photometric in _CAMERA_RAW:
        return "a camera's raw data in a TIFF (DNG, NEF, ARW or the like)"
    bits = "-".join(map(str, np.atleast_1d(page.bitspersample)))
    numbers = _NUMBERS.get(page.sampleformat, "undefined ")
    grey = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE)
    colours = "grey" if page.photometric in grey else _name(page.photometric)
    compression = "" if page.compression in _LOSSLESS else f", compressed as {_name(page.compression)}"
    depth = f", {page.imagedepth} layers deep" if page.imagedepth != 1 else ""
    return f"a TIFF of {bits}-bit {numbers}{colours} pixels{compression}{depth}"


def _name(value: Any) -> str:
    return getattr(value, "name", None) or f"number {value}"
