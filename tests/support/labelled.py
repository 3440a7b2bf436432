"""Small pseudo-labelled pairs with their images for the tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from make import encoded, noise_rgb

from schemas.pairs import PAIRS

PROVENANCE = {"matcher": "nemf-small", "fingerprint": "f00d", "run": "runs/r", "rules": {"precision": 0.9}}
POINTS_PX = [[1.0, 2.0], [10.5, 5.25], [30.0, 20.0]]


def write_images(folder: Path, *names: str) -> list[str]:
    """Images of 32 x 24 pixels of noise, each another one; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        kind = "JPEG" if name.lower().endswith(("jpg", "jpeg")) else "PNG"
        (folder / name).write_bytes(encoded(noise_rgb(number), kind))
    return [str(folder / name) for name in names]


def labelled_row(pair_id: str, source_uri: str, target_uri: str, **columns: Any) -> dict[str, Any]:
    """A PAIRS row with three labels, unless `columns` says otherwise."""
    return {
        "pair_id": pair_id,
        "category": "cat",
        "source_uri": source_uri,
        "target_uri": target_uri,
        "source_xy_px": POINTS_PX,
        "target_xy_px": POINTS_PX[::-1],
        "keypoint_id": ["nose", "ear", "tail"],
        "keypoint_probability": [0.875, 0.9375, 0.75],
        "source_box_xyxy": [0.0, 1.0, 31.0, 22.0],
        "target_box_xyxy": [2.0, 0.0, 30.0, 24.0],
        **columns,
    }


def tables(*rows: dict[str, Any], rows_each: int = 2) -> Iterator[pa.Table]:
    """PAIRS tables of a few rows each."""
    for start in range(0, len(rows), rows_each):
        yield pa.Table.from_pylist(list(rows[start : start + rows_each]), PAIRS)
