"""From a URI or bytes to RGB pixels. Image files are untrusted: a few raster formats, a size limit, no surprises.

Every image becomes (H, W, 3) uint8 as nemf.pixels says; of several frames the first is taken. The limit of pixels is
Pillow's own (89 million).
"""

import io
import warnings

import numpy as np
from PIL import Image, UnidentifiedImageError

from nemf.pixels import to_rgb
from pipeline import storage

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
MAX_FILE_BYTES = 256 * 2**20

# More pixels than Pillow's limit are an error from the first, not a warning.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


class ImageError(ValueError):
    """An image that could not be had. `stage` is fetch or decode, `kind` a short constant reason."""

    def __init__(self, stage: str, kind: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.kind, self.message = stage, kind, message

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return ImageError, (self.stage, self.kind, self.message)


def read_image(uri: str) -> np.ndarray:
    """The pixels of the image at `uri`, (H, W, 3) uint8 RGB. Raises ImageError."""
    return decode_image(fetch_image(uri), uri)


def fetch_image(uri: str) -> bytes:
    """The encoded bytes at `uri`.

    Raises ImageError at stage fetch: not_found, permission_denied, too_large, bad_uri or unreadable.
    """
    try:
        fs, path = storage.open_uri(uri)
        info = fs.info(path)
        if info["type"] != "file":  # reading a device or a pipe may never end
            raise ImageError("fetch", "unreadable", f"{uri}: not a file, but of type {info['type']}")
        if (info["size"] or 0) > MAX_FILE_BYTES:
            raise ImageError("fetch", "too_large", f"{uri}: {info['size']} bytes, at most {MAX_FILE_BYTES} are read")
        return fs.cat_file(path)
    except ImageError:
        raise
    except FileNotFoundError as error:
        server_said = f" ({_one_line(error.__cause__)})" if error.__cause__ else ""
        raise ImageError("fetch", "not_found", f"{uri}: there is no such file{server_said}") from error
    except PermissionError as error:
        raise ImageError("fetch", "permission_denied", f"{uri}: {_one_line(error)}") from error
    except ValueError as error:
        raise ImageError("fetch", "bad_uri", f"{uri}: {_one_line(error)}") from error
    except Exception as error:  # every file system has exceptions of its own
        raise ImageError("fetch", "unreadable", f"{uri}: {type(error).__name__}: {_one_line(error)}") from error


def decode_image(data: bytes, where: str = "image") -> np.ndarray:
    """The pixels of encoded bytes, (H, W, 3) uint8 RGB; `where` names them in errors.

    Raises ImageError at stage decode: empty_file, not_an_image, too_large, truncated, unsupported_mode or corrupt.
    """
    if not data:
        raise ImageError("decode", "empty_file", f"{where}: the file has 0 bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            image.load()
            if image.mode in ("I", "F"):
                raise ImageError("decode", "unsupported_mode", f"{where}: pixels of mode {image.mode!r} have no range")
            return to_rgb(image)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("decode", "too_large", f"{where}: {_one_line(error)}") from error
    except UnidentifiedImageError as error:
        raise ImageError("decode", "not_an_image", f"{where}: not one of {', '.join(FORMATS)}") from error
    except Exception as error:  # Pillow's readers raise whatever a hostile file makes them meet
        kind = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise ImageError("decode", kind, f"{where}: {type(error).__name__}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
