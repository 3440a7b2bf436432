"""Reading images, from a URI or bytes to RGB pixels. Image files are untrusted: formats and sizes are limited.

Every image becomes (H, W, 3) uint8 as nemf.rgb specifies; of several frames the first is taken. No program is started
and nothing is written. Limited are a file's bytes, its pixels, the scans of a JPEG (pipeline.io.jpeg) and the tags of a
TIFF (pipeline.io.tiff_directories). pipeline.io.image_formats lists the formats.
"""

import io
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import AvifImagePlugin, Image, ImageFile, UnidentifiedImageError

from nemf.io.redact import redacted
from nemf.io.store_errors import BAD_URI, CREDENTIALS, NOT_FOUND, PERMISSION_DENIED, TIMEOUT, reason
from nemf.io.uri import credentials_error
from nemf.rgb import SIDEWAYS, exif_orientation, load_pixels, to_rgb
from pipeline.io.download import DownloadError, download
from pipeline.io.image_formats import (
    CostlyError,
    UnsupportedError,
    describe,
    format_of,
    readable_formats,
    register_heif,
)
from pipeline.io.jpeg import check_scans, decode_without_end_mark, unsupported_jpeg, without_zero_tail
from pipeline.io.png import apply_key_colour
from pipeline.io.tiff import read_tiff
from pipeline.io.uri_allowlist import is_allowed
from schemas.failures import FailureError

MAX_FILE_BYTES = 256 * 2**20
MAX_PIXELS = 8192 * 6144
"""Maximum number of pixels, that of a 50 megapixel camera. Decoding takes 10 bytes a pixel, 0.5 GB; with transparency
up to 21 bytes."""
FETCH_SECONDS = 60.0
"""Maximum time for the download of one image, including retries."""

# More pixels than Pillow's limit are an error, not a warning. Odd metadata does no harm.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # Ray gives a task one CPU


class ImageError(FailureError):
    """An image that could not be read, at stage fetch or decode; the message is without secrets."""

    def __init__(self, stage: str, kind: str, message: str) -> None:
        super().__init__(stage, kind, redacted(message))


def read_image(uri: str) -> np.ndarray:
    """The pixels of the image at `uri`, (H, W, 3) uint8 RGB. Raises ImageError."""
    return decode_image(fetch_image(uri), uri)


def fetch_image(uri: str, allowed_prefixes: Sequence[str] = ()) -> bytes:
    """The encoded bytes at `uri`. Transient errors are retried, FETCH_SECONDS in all.

    allowed_prefixes: `uri` must be below one of them, see pipeline.io.uri_allowlist; none allow everything.
    Raises ImageError at stage fetch: not_allowed, too_large, or one of nemf.io.store_errors; but CredentialsError, an
    OSError, if a store rejects the credentials of this process, since no other image could be read from it either.
    """
    if allowed_prefixes and not is_allowed(uri, allowed_prefixes):
        message = f"{uri}: not below {' or '.join(allowed_prefixes)} (--allow-prefix)"
        raise ImageError("fetch", "not_allowed", message)
    try:
        return download(uri, max_bytes=MAX_FILE_BYTES, seconds=FETCH_SECONDS, redirects=not allowed_prefixes)
    except DownloadError as error:
        raise ImageError("fetch", error.failure.kind, f"{uri}: {error}") from error
    except Exception as error:  # every file system has exceptions of its own
        kind = reason(error)
        if kind == CREDENTIALS:
            raise credentials_error(uri, error) from error
        raise ImageError("fetch", kind, f"{uri}: {_message(kind, error)}") from error


def _message(kind: str, error: Exception) -> str:
    text = _one_line(error.__cause__ or error)
    if kind == NOT_FOUND:
        return "there is no such file" + (f" ({text})" if error.__cause__ else "")
    if kind == TIMEOUT and not text:
        return f"not there within {FETCH_SECONDS:g} s"
    if kind in (PERMISSION_DENIED, BAD_URI):
        return text
    return f"{type(error.__cause__ or error).__name__}: {text}"


class Reduced(NamedTuple):
    """An image at a reduced scale."""

    rgb: np.ndarray
    """(h, w, 3) uint8, of the whole picture."""
    whole_hw: tuple[int, int]
    """Rows and columns of the image as it is in its file, its orientation applied."""


def decode_image(data: bytes, where: str = "image") -> np.ndarray:
    """The pixels of encoded bytes, (H, W, 3) uint8 RGB; `where` names them in errors.

    Raises ImageError at stage decode: empty_file, not_an_image, too_large, truncated, unsupported_mode or corrupt.
    """
    return decode_reduced(data, where, None).rgb


def decode_reduced(data: bytes, where: str, side: int | None) -> Reduced:
    """The same, at a half, a quarter or an eighth of its size where that leaves two pixels for each of a square of
    `side` pixels that it will be squashed to; whole for None. Raises as decode_image does.

    A JPEG is decoded at that scale, which takes a fraction of the time; of other formats the means of 2 x 2, 4 x 4 or
    8 x 8 pixels are taken. Sizes are rounded up, and every pixel is as large as the others: resizing the result maps
    areas onto areas exactly as resizing the whole image does (nemf.coordinates.rescale_px).
    """
    if not data:
        raise ImageError("decode", "empty_file", f"{where}: the file has 0 bytes")
    try:
        image, whole_wh = _decode(data, side)
        is_sideways = whole_wh != image.size and exif_orientation(image) in SIDEWAYS
        rgb = to_rgb(image)
        if whole_wh != image.size:
            return Reduced(rgb, (whole_wh[0], whole_wh[1]) if is_sideways else (whole_wh[1], whole_wh[0]))
        whole_hw = (rgb.shape[0], rgb.shape[1])
        if (factor := _reduction(whole_hw, side)) > 1:
            size = (-(-whole_hw[1] // factor), -(-whole_hw[0] // factor))
            rgb = np.array(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))
        return Reduced(rgb, whole_hw)
    except CostlyError as error:
        raise ImageError("decode", "too_large", f"{where}: {error}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        message = f"{where}: more than the {MAX_PIXELS} pixels that are read: {_one_line(error)}"
        raise ImageError("decode", "too_large", message) from error
    except UnsupportedError as error:
        raise ImageError("decode", "unsupported_mode", f"{where}: not an image we read: it is {error}") from error
    except UnidentifiedImageError as error:
        name = describe(data)
        detail = f"not an image we read: it is {name}" if name else f"not one of {', '.join(readable_formats())}"
        raise ImageError("decode", "not_an_image", f"{where}: {detail}") from error
    except Exception as error:  # Pillow's readers raise errors of any type for hostile files
        kind = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise ImageError("decode", kind, f"{where}: {type(error).__name__}: {_one_line(error)}") from error


def _reduction(size: tuple[int, int], side: int | None) -> int:
    """By what an image of this size is reduced, see decode_reduced: 8, 4, 2 or 1."""
    return next((factor for factor in (8, 4, 2) if side and min(size) // factor >= 2 * side), 1)


def _decode(data: bytes, side: int | None) -> tuple[Image.Image, tuple[int, int]]:
    """The decoded image, for nemf.rgb.to_rgb, and the width and height of it in the file; only a JPEG is reduced.

    Raises CostlyError, UnsupportedError, and whatever Pillow raises.
    """
    if format_of(data) == "JPEG":
        return _decode_jpeg(data, side)
    image = _decode_other(data)
    return image, image.size


def _decode_other(data: bytes) -> Image.Image:
    name = format_of(data)
    if name not in readable_formats():
        raise UnidentifiedImageError
    if name == "TIFF":
        return read_tiff(data, MAX_PIXELS)
    if name == "HEIF":
        register_heif()
    image = _open(data, name)
    frame = image.tile[0].extents if name == "GIF" and image.tile else None
    load_pixels(image)
    if name == "PNG":
        apply_key_colour(image, data)
    if frame and frame != (0, 0, *image.size) and not image.has_transparency_data:
        return _frame_on_white(image, frame)
    return image


def _frame_on_white(image: Image.Image, frame: tuple[int, int, int, int]) -> Image.Image:
    """A GIF whose first frame does not fill the canvas: the rest is white as in a browser; in Pillow it is colour 0."""
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image.crop(frame).convert("RGB"), frame)
    return canvas


def _decode_jpeg(data: bytes, side: int | None) -> tuple[Image.Image, tuple[int, int]]:
    check_scans(data)
    data = without_zero_tail(data)
    try:
        image = _open(data, "JPEG")
        whole_wh = image.size
        if (factor := _reduction(whole_wh, side)) > 1:
            image.draft(image.mode, (whole_wh[0] // factor, whole_wh[1] // factor))
        load_pixels(image)
    except (OSError, SyntaxError) as error:
        is_truncated = "truncated" in str(error)
        if is_truncated and (complete := decode_without_end_mark(data)):
            return complete, complete.size
        if not is_truncated and (kind := unsupported_jpeg(data)):
            raise UnsupportedError(kind) from error
        raise
    return _evenly(image, whole_wh, factor), whole_wh


def _evenly(image: Image.Image, whole_wh: tuple[int, int], factor: int) -> Image.Image:
    """A JPEG decoded at 1 / factor with all its pixels of one size: the last ones reach beyond the picture's edge."""
    if whole_wh[0] % factor == whole_wh[1] % factor == 0:
        return image
    inside = (0, 0, whole_wh[0] / factor, whole_wh[1] / factor)
    return image.resize(image.size, Image.Resampling.BILINEAR, box=inside)


def _open(data: bytes, name: str) -> ImageFile.ImageFile:
    image = Image.open(io.BytesIO(data), formats=(name,))
    if image.width * image.height > MAX_PIXELS:
        raise CostlyError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
    return image


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
