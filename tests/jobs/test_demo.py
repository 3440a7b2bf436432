from pathlib import Path

import numpy as np
import pytest

from jobs.demo import _keypoints, _make_room, _smooth_warp, _warped, _write_pairs, main


def test_the_truth_is_where_the_warp_takes_the_pixels() -> None:
    """A photograph whose colours are its coordinates: warped, it says itself where every pixel comes from."""
    height, width = 60, 80
    y, x = np.mgrid[:height, :width].astype(np.float64)
    ramp = np.stack([x, y, np.zeros_like(x)], axis=-1)
    to_source_px = _smooth_warp(np.random.default_rng(3), (height, width))

    warped = _warped(ramp, to_source_px)
    source_xy_px, target_xy_px = _keypoints(to_source_px, (height, width))

    assert len(source_xy_px) > 10
    for source, target in zip(source_xy_px, target_xy_px, strict=True):
        column, row = np.floor(target).astype(int)
        between = target - np.floor(target)
        around = warped[row : row + 2, column : column + 2, :2]
        weights = np.outer([1 - between[1], between[1]], [1 - between[0], between[0]])
        assert np.abs((around * weights[..., None]).sum((0, 1)) - source).max() < 0.1


def test_the_same_seed_draws_the_same_pairs(tmp_path: Path) -> None:
    tables = []
    for name in ("a", "b"):
        (tmp_path / name / "images").mkdir(parents=True)
        tables.append(_write_pairs(tmp_path / name, n_warps=1, seed=0).read_text())

    assert tables[0] == tables[1]
    assert len(tables[0].splitlines()) == 1 + 5


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")

    assert main(["--out", str(tmp_path)]) == 2

    assert "is not empty and was not made by the demo" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_earlier_demo_makes_room_even_if_it_was_interrupted(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    _make_room(out)
    (out / "images" / "half.png").touch()

    _make_room(out)

    assert list((out / "images").iterdir()) == []
