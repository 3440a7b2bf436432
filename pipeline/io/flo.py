"""Dense flow in Middlebury's .flo files.

A file is little-endian: float32 202021.25, int32 width and height, then float32 (u, v) row by row. A pixel is unknown
where u or v is 1e9 or more, of either sign, or not a number. https://vision.middlebury.edu/flow
"""

import struct

import numpy as np
from jaxtyping import Bool, Float32

from nemf.io.uri import with_retries
from pipeline.io import storage

_HEADER = struct.Struct("<fii")
_MAGIC = 202021.25
_UNKNOWN = 1e9
_PIXEL_BYTES = 8
_LARGEST_SIDE_PX = 99_999


def read_flo(uri: str) -> Float32[np.ndarray, "h w 2"]:
    """The displacements (u, v) in pixels. Raises ValueError naming the URI, FileNotFoundError if there is no file."""
    return decode_flo(storage.read_bytes(uri), uri)


def read_flo_hw(uri: str) -> tuple[int, int]:
    """Height and width alone, from the first 12 bytes; raises as read_flo."""
    header = with_retries(uri, lambda fs, path: fs.cat_file(path, start=0, end=_HEADER.size))
    return _size_hw(header, uri)


def decode_flo(data: bytes, uri: str) -> Float32[np.ndarray, "h w 2"]:
    """The displacements (u, v) in pixels of a file's bytes; `uri` is for errors. Raises ValueError if it is damaged."""
    height, width = _size_hw(data, uri)
    expected = _HEADER.size + height * width * _PIXEL_BYTES
    if len(data) != expected:
        raise ValueError(f"{uri}: a .flo file of {width} x {height} has {expected} bytes, got {len(data)}")
    return np.frombuffer(data, "<f4", offset=_HEADER.size).reshape(height, width, 2)


def is_known(flow_px: Float32[np.ndarray, "h w 2"]) -> Bool[np.ndarray, "h w"]:
    """Mask of the pixels whose displacement is known."""
    return (np.abs(flow_px) < _UNKNOWN).all(axis=2)


def _size_hw(data: bytes, uri: str) -> tuple[int, int]:
    if len(data) < _HEADER.size:
        raise ValueError(f"{uri}: not a .flo file: expected at least {_HEADER.size} bytes, got {len(data)}")
    magic, width, height = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError(f"{uri}: not a .flo file: expected {_MAGIC} as its first number, got {magic:g}")
    if not (1 <= width <= _LARGEST_SIDE_PX and 1 <= height <= _LARGEST_SIDE_PX):
        raise ValueError(f"{uri}: width and height must be 1 to {_LARGEST_SIDE_PX}, got {width} and {height}")
    return height, width
