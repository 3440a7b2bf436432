"""Small images, manifests and match rows for the tests."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline.io.manifest import Manifest
from schemas.matches import MATCHES
from schemas.pairs import PAIRS


def noise_rgb(seed: int, hw: tuple[int, int] = (24, 32)) -> np.ndarray:
    """A (H, W, 3) uint8 image of noise."""
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), np.uint8)


def encoded(image: np.ndarray | Image.Image, image_format: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture.save(buffer, image_format, **options)
    return buffer.getvalue()


def pair_row(pair_id: str, **columns: Any) -> dict[str, Any]:
    """A PAIRS row with three keypoints, unless `columns` says otherwise."""
    points = [[1.0, 2.0], [10.0, 5.0], [30.0, 20.0]]
    return {"pair_id": pair_id, "category": "cat", "source_xy_px": points, "target_xy_px": points, **columns}


def write_pairs(path: Path, rows: list[dict[str, Any]], **options: Any) -> str:
    """Write a PAIRS manifest; its path as text."""
    pq.write_table(pa.Table.from_pylist(rows, PAIRS), path, **options)
    return str(path)


def write_image_pairs(folder: Path, n_pairs: int, n_images: int = 5, **columns: Any) -> str:
    """A manifest of `n_pairs` over `n_images` small images, written to `folder`; the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{index}.png" for index in range(n_images)]
    for index, name in enumerate(names):
        (folder / name).write_bytes(encoded(noise_rgb(index, (20 + index, 32))))
    rows = [
        pair_row(
            f"pair-{index:04d}",
            source_uri=str(folder / names[index % n_images]),
            target_uri=str(folder / names[(index * 3 + 1) % n_images]),
            **columns,
        )
        for index in range(n_pairs)
    ]
    return write_pairs(folder / "pairs.parquet", rows)


def match_rows(*rows: dict[str, Any]) -> pa.Table:
    """A MATCHES table; every row ok, of attempt 1 and one fingerprint, unless it says otherwise."""
    defaults = {
        "direction": "source_to_target",
        "attempt": 1,
        "status": "ok",
        "matcher": "planted",
        "fingerprint": "f",
    }
    return pa.Table.from_pylist([{**defaults, **row} for row in rows], MATCHES)


def run_description(pairs: str | None = None, **config: Any) -> dict[str, Any]:
    """The content of run.json of a run of the manifest `pairs`, fingerprint 'f', for open_run; `config` changes
    settings."""
    settings = {"matcher": "planted", "backbone_weights": None, "outputs": ["keypoints"], "limit": None}
    settings |= {"pairs": pairs, "direction": "source_to_target", **config}
    digest = "m" if pairs is None else Manifest(pairs).digest()
    return {"fingerprint": "f", "manifest_digest": digest, "image_root": None, "config": settings, "versions": {}}
