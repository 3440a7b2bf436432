from pathlib import Path

import numpy as np

from jobs.demo_pairs import keypoints, smooth_warp, warped, write_pairs


def test_the_truth_is_where_the_warp_takes_the_pixels() -> None:
    """In a photograph whose colours are its coordinates, a warped pixel's colour is where it comes from."""
    height, width = 60, 80
    y, x = np.mgrid[:height, :width].astype(np.float64)
    ramp = np.stack([x, y, np.zeros_like(x)], axis=-1)
    to_source_px = smooth_warp(np.random.default_rng(3), (height, width))

    image = warped(ramp, to_source_px)
    source_xy_px, target_xy_px = keypoints(to_source_px, (height, width))

    assert len(source_xy_px) > 10
    for source, target in zip(source_xy_px, target_xy_px, strict=True):
        column, row = np.floor(target).astype(int)
        between = target - np.floor(target)
        around = image[row : row + 2, column : column + 2, :2]
        weights = np.outer([1 - between[1], between[1]], [1 - between[0], between[0]])
        assert np.abs((around * weights[..., None]).sum((0, 1)) - source).max() < 0.1


def test_the_same_seed_draws_the_same_pairs(tmp_path: Path) -> None:
    tables = []
    for name in ("a", "b"):
        (tmp_path / name / "images").mkdir(parents=True)
        table = tmp_path / name / "pairs.csv"
        write_pairs(table, n_warps=1, seed=0)
        tables.append(table.read_text())

    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 1 + 5
