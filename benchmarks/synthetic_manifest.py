"""A manifest of any length over a few images."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from schemas.pairs import PAIRS

KEYPOINTS = 8
_ROWS_AT_ONCE = 65_536


def write_manifest(folder: Path, n_rows: int, n_images: int, image_hw: tuple[int, int] = (240, 320)) -> str:
    """`n_rows` pairs of KEYPOINTS points over `n_images` JPEG images of noise without fine detail; the manifest's path.

    Row n pairs image n // n_images with image n % n_images, both counted modulo n_images.
    """
    rng = np.random.default_rng(0)
    height, width = image_hw
    (folder / "images").mkdir(parents=True)
    names = [str(folder / "images" / f"{index}.jpg") for index in range(n_images)]
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(name)
    file = folder / "pairs.parquet"
    with pq.ParquetWriter(file, PAIRS) as writer:
        for start in range(0, n_rows, _ROWS_AT_ONCE):
            rows = range(start, min(start + _ROWS_AT_ONCE, n_rows))
            points = rng.uniform(0, min(image_hw), (len(rows), KEYPOINTS, 2)).tolist()
            columns = {
                "pair_id": [f"{row:09d}" for row in rows],
                "source_uri": [names[row // n_images % n_images] for row in rows],
                "target_uri": [names[row % n_images] for row in rows],
                "source_xy_px": points,
                "target_xy_px": points,
            }
            absent = {field.name: pa.nulls(len(rows), field.type) for field in PAIRS if field.name not in columns}
            arrays = {name: pa.array(values, PAIRS.field(name).type) for name, values in columns.items()} | absent
            writer.write_table(pa.table([arrays[name] for name in PAIRS.names], schema=PAIRS))
    return str(file)
