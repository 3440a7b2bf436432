"""Dense flow as compressed fixed point, exact to half a step; schemas.matches shows how to decode it without this code.

Each row is stored as its difference from the row above, which halves the size, since a flow is smooth.
"""

from typing import Any

import numpy as np
import pyarrow as pa

FINEST_SCALE_PX = 2.0**-6
_DTYPE = "<i2"
_LARGEST = np.iinfo(_DTYPE).max


def encode_flow(flow_px: np.ndarray) -> dict[str, Any]:
    """The flow columns of MATCHES for a (H, W, 2) displacement in pixels, which must be finite.

    The step is 1/64 px, doubled until the longest displacement fits 16 bits (511 px at 1/64, 1023 px at 1/32, ...).
    """
    longest = float(np.abs(flow_px).max(initial=0.0))
    scale = FINEST_SCALE_PX
    while longest > scale * _LARGEST:
        scale *= 2
    steps = np.rint(flow_px / scale).astype(_DTYPE)
    rises = np.diff(steps, axis=0, prepend=np.zeros_like(steps[:1]))  # differences and their sums are modulo 2^16
    return {
        "flow": _compress(rises),
        "flow_hw": list(flow_px.shape[:2]),
        "flow_dtype": _DTYPE,
        "flow_scale": scale,
    }


def decode_flow(row: dict[str, Any]) -> np.ndarray:
    """The (H, W, 2) float64 displacement in pixels of a MATCHES row with a flow."""
    shape = (*row["flow_hw"], 2)
    raw = pa.decompress(row["flow"], int(np.prod(shape)) * 2, codec="zstd")
    rises = np.frombuffer(raw, row["flow_dtype"]).reshape(shape)
    return rises.cumsum(axis=0, dtype=row["flow_dtype"]) * row["flow_scale"]


def encode_confidence(confidence: np.ndarray) -> bytes:
    """A (H, W) confidence in 0..1 as zstd-compressed uint8."""
    return _compress(np.rint(np.clip(confidence, 0, 1) * 255).astype(np.uint8))


def decode_confidence(row: dict[str, Any]) -> np.ndarray:
    """The (H, W) confidence in 0..1 of a MATCHES row with a flow confidence."""
    raw = pa.decompress(row["flow_confidence"], int(np.prod(row["flow_hw"])), codec="zstd")
    return np.frombuffer(raw, np.uint8).reshape(row["flow_hw"]) / 255


def _compress(array: np.ndarray) -> bytes:
    return pa.compress(np.ascontiguousarray(array).tobytes(), codec="zstd", asbytes=True)
