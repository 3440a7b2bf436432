"""Image files made byte by byte, and files that are no image of a format that is read."""

import io
import pickle
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
import tifffile


def tiff(width: int = 8, height: int = 8, *tags: tuple[int, int, int, int], values: bytes = b"") -> bytes:
    """A grey TIFF; tags (number, type, count, value or offset) replace those of their number. `values` are at 200."""
    pixels = 8 + 2 + 12 * (9 + len(tags)) + 4
    known = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, pixels),
        277: (3, 1, 1),
        278: (4, 1, height),
        279: (4, 1, width * height),
    } | {number: rest for number, *rest in tags}
    directory = b"".join(struct.pack("<HHII", number, *rest) for number, rest in sorted(known.items()))
    head = b"II*\0" + struct.pack("<IH", 8, len(known)) + directory + bytes(4)
    return head.ljust(200, b"\0") + (values or bytes(64))


def written_by_tifffile(*pages: Any, byteorder: str = "<", bigtiff: bool = False, **options: Any) -> bytes:
    """A TIFF of pages, each an array or (array, its options); `options` hold for all."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, byteorder=byteorder, bigtiff=bigtiff) as writer:
        for page in pages:
            array, own = page if isinstance(page, tuple) else (page, {})
            writer.write(array, metadata=None, **{"photometric": "minisblack", **options, **own})
    return buffer.getvalue()


def png(samples: np.ndarray, depth: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of (H, W, samples), with further chunks before the pixels."""
    height, width = samples.shape[:2]
    rows = samples.reshape(height, width * samples.shape[2])
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8)
    else:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(height, rows.shape[1] * depth), axis=-1)
    pixels = np.concatenate([np.zeros((height, 1), np.uint8), packed], axis=-1)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    all_chunks = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels.tobytes())), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in all_chunks
    )


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.txt", "a")
    return buffer.getvalue()


def _box(brand: bytes) -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + brand + b"mif2" + bytes(40)


IMPOSTORS: dict[str, tuple[bytes, str]] = {
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "svg with a declaration": (b"<?xml version='1.0'?>\n<!-- drawn -->\n<svg/>", "an SVG drawing"),
    "svg with a byte order mark": (b"\xef\xbb\xbf<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
    "pdf": (b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>", "a PDF"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n", "PostScript"),
    "zip": (_zip(), "a ZIP archive"),
    "parquet": (b"PAR1" + bytes(32) + b"PAR1", "a Parquet file"),
    "pixmap": (b"P6 8 8 255\n" + bytes(192), "a portable pixmap (PPM, PGM, PBM or PAM)"),
    "icon": (b"\0\0\1\0\1\0" + bytes(16), "a Windows icon (ICO) or cursor"),
    "photoshop": (b"8BPS\0\1" + bytes(20), "a Photoshop file (PSD)"),
    "jpeg xl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "JPEG XL"),
    "jpeg xl, bare": (b"\xff\x0a" + bytes(20), "JPEG XL"),
    "jpeg 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "JPEG 2000"),
    "jpeg xr": (b"II\xbc\x01" + bytes(20), "JPEG XR"),
    "canon raw": (b"II*\0\x10\0\0\0CR\2\0" + bytes(40), "a Canon raw file"),
    "canon raw, new": (_box(b"crx "), "a Canon raw file"),
    "olympus raw": (b"IIRO" + bytes(20), "an Olympus raw file"),
    "panasonic raw": (b"IIU\0" + bytes(20), "a Panasonic raw file"),
    "video": (_box(b"isom"), "a video"),
    "exr": (b"v/1\x01" + bytes(20), "OpenEXR"),
    "radiance": (b"#?RADIANCE\n\n", "Radiance HDR"),
    "fits": (b"SIMPLE  =                    T", "FITS"),
    "dicom": (bytes(128) + b"DICM", "DICOM"),
    "array": (b"\x93NUMPY\1\0" + bytes(20), "a NumPy array"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer; `git lfs pull` gets the file"),
    "zeros": (bytes(100), "zeros"),
}
"""Files named .jpg of formats that are not read, and the description of each in the error."""

UNKNOWN: dict[str, bytes] = {"pickle": pickle.dumps({"a": 1}), "text": b"not an image", "gif, half a header": b"GIF8"}
