"""Rows of manifests as training examples."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make import encoded, noise_rgb, pair_row, write_pairs

from pipeline.training.dataset import ImageCache, TrainingPairs


@pytest.fixture
def photograph(tmp_path: Path) -> str:
    (tmp_path / "a.png").write_bytes(encoded(noise_rgb(1)))
    return "a.png"


def _pairs(folder: Path, rows: list[dict[str, Any]]) -> TrainingPairs:
    return TrainingPairs(write_pairs(folder / "pairs.parquet", rows), str(folder), ImageCache())


def test_a_row_is_an_example(tmp_path: Path, photograph: str):
    columns: dict[str, Any] = {
        "keypoint_id": ["left_eye", "right_eye", "nose"],
        "source_box_xyxy": [1.0, 2.0, 30.0, 20.0],
        "source_uri": photograph,
        "target_image": encoded(noise_rgb(2, (40, 50))),
    }
    row = {**pair_row("p", **columns), "target_xy_px": [[1.5, 2.0], [3.0, 4.0], [5.0, 6.0]]}
    pairs = _pairs(tmp_path, [row])

    example = pairs.example(0)

    assert np.array_equal(example.reference.rgb, noise_rgb(1))
    assert np.array_equal(example.query.rgb, noise_rgb(2, (40, 50)))
    assert example.reference.xy_px.tolist() == [[1, 2], [10, 5], [30, 20]]
    assert example.query.xy_px.tolist() == [[1.5, 2], [3, 4], [5, 6]]
    assert example.keypoint_id == ("left_eye", "right_eye", "nose")
    assert example.category.endswith("cat")
    assert example.reference.box_xyxy == (1, 2, 30, 20)
    assert example.query.box_xyxy is None
    assert pairs.unusable == {}


def test_keypoints_have_the_probability_of_the_manifest(tmp_path: Path, photograph: str):
    points = [[1.0, 2.0], [31.0, 23.0], [31.1, 5.0]]
    row = {**pair_row("p", source_uri=photograph, target_uri=photograph), "source_xy_px": points}
    pairs = _pairs(tmp_path, [{**row, "keypoint_probability": [0.25, 1.0, 0.5]}])
    probability = pairs.example(0).probability
    assert probability is not None
    assert probability.tolist() == [0.25, 1]


def test_points_of_a_matcher_have_their_names_within_their_pair(tmp_path: Path, photograph: str):
    row = pair_row("p", source_uri=photograph, target_uri=photograph, keypoint_id=["0", "1", "2"])
    labels = [{**row, "pair_id": name, "keypoint_probability": [0.5, 0.5, 0.5]} for name in "ab"]
    manifest = write_pairs(tmp_path / "pairs.parquet", [row, *labels])
    for across in (False, True):
        pairs = TrainingPairs(manifest, str(tmp_path), ImageCache(), names_across_categories=across)
        assert len({pairs.example(number).category for number in range(3)}) == 3


def test_names_may_mean_the_same_in_all_categories(tmp_path: Path, photograph: str):
    row = pair_row("p", source_uri=photograph, target_uri=photograph)
    others = [{**row, "pair_id": "q", "category": None}, {**row, "pair_id": "r", "category": None}]
    manifest = write_pairs(tmp_path / "pairs.parquet", [row, {**row, "pair_id": "s"}, *others])

    def categories(names_across_categories: bool) -> list[str]:
        pairs = TrainingPairs(manifest, str(tmp_path), ImageCache(), names_across_categories=names_across_categories)
        return [pairs.example(number).category for number in range(4)]

    cat, same, unknown, other = categories(False)
    assert cat == same
    assert len({cat, unknown, other}) == 3
    assert set(categories(True)) == {""}


def test_points_outside_an_image_are_left_out(tmp_path: Path, photograph: str):
    points = [[1.0, 2.0], [31.0, 23.0], [31.1, 5.0]]
    row = {**pair_row("p", source_uri=photograph, target_uri=photograph), "source_xy_px": points}

    assert _pairs(tmp_path, [row]).example(0).reference.xy_px.tolist() == points[:2]


def _broken(photograph: str) -> dict[str, dict[str, Any]]:
    """Rows that cannot be used, by a part of the reason."""
    both = {"source_uri": photograph, "target_uri": photograph}
    return {
        "keypoint_probability must be above 0 and at most 1": {**both, "keypoint_probability": [0.5, 0.0, 1.0]},
        "and a name and a probability for each, or none": {**both, "keypoint_probability": [0.5]},
        "no keypoints in both images": {**both, "source_xy_px": None},
        "the row has neither target_uri nor target_image": {"source_uri": photograph},
        "there is no such file": {**both, "source_uri": "absent.png"},
        "inline source image: not one of JPEG": {"source_image": b"nonsense", "target_uri": photograph},
        "3 source points, 1 target points": {**both, "target_xy_px": [[1.0, 2.0]]},
        "points must be finite; point 0": {**both, "target_xy_px": [[float("nan"), 2.0]] * 3},
        "no keypoint lies inside both images": {**both, "target_xy_px": [[-1.0, 2.0]] * 3},
        "source_box_xyxy must be x_min, y_min, x_max, y_max; got [9.0,": {
            **both,
            "source_box_xyxy": [9.0, 0.0, 1.0, 5.0],
        },
        "the source image must be at least 16 pixels high and wide; got (24, 15)": {
            "source_image": encoded(noise_rgb(1, (24, 15))),
            "target_uri": photograph,
        },
    }


def test_rows_that_cannot_be_used_are_named_and_the_next_one_is_taken(tmp_path: Path, photograph: str):
    broken = _broken(photograph)
    rows = [{**pair_row(str(number)), **columns} for number, columns in enumerate(broken.values())]
    good = pair_row("good", source_uri=photograph, target_uri=photograph)
    pairs = _pairs(tmp_path, [good, *rows])

    assert np.array_equal(pairs.example(1).reference.rgb, noise_rgb(1))

    assert list(pairs.unusable) == [str(number) for number in range(len(rows))]
    for part, reason in zip(broken, pairs.unusable.values(), strict=True):
        assert part in reason


def test_a_photograph_is_one_image_of_a_row_keypoints_or_not(tmp_path: Path, photograph: str):
    without = {"source_xy_px": None, "target_xy_px": None}
    rows = [
        pair_row("p", source_uri=photograph, target_image=encoded(noise_rgb(2)), **without),
        pair_row("small", source_image=encoded(noise_rgb(3, (24, 15))), target_image=encoded(noise_rgb(4))),
    ]
    pairs = _pairs(tmp_path, rows)

    assert np.array_equal(pairs.photograph(0, "source"), noise_rgb(1))
    assert np.array_equal(pairs.photograph(0, "target"), noise_rgb(2))
    assert np.array_equal(pairs.photograph(1, "target"), noise_rgb(4))
    assert pairs.unusable_rows() == []
    assert np.array_equal(pairs.photograph(1, "source"), noise_rgb(1))  # the next row's, which is the first
    reason = "the source image must be at least 16 pixels high and wide; got (24, 15)"
    assert pairs.unusable_rows() == [{"pairs": pairs.uri, "pair_id": "small", "reason": reason}]


def test_what_a_row_is_of_no_use_for_does_not_change_what_else_it_gives(tmp_path: Path, photograph: str):
    """Else a restarted run, which has not met the row yet, would see other photographs."""
    rows = [
        pair_row("bare", source_uri=photograph, target_uri="absent.png", source_xy_px=None),
        pair_row("good", source_image=encoded(noise_rgb(5)), target_image=encoded(noise_rgb(6))),
    ]
    pairs = _pairs(tmp_path, rows)

    assert np.array_equal(pairs.example(0).reference.rgb, noise_rgb(5))
    assert np.array_equal(pairs.photograph(0, "target"), noise_rgb(6))
    assert np.array_equal(pairs.photograph(0, "source"), noise_rgb(1))
    assert list(pairs.unusable) == ["bare"]


def test_a_manifest_without_any_usable_row_is_an_error(tmp_path: Path):
    pairs = _pairs(tmp_path, [pair_row("a", source_uri="x.png", target_uri="y.png"), pair_row("b")])

    with pytest.raises(ValueError, match=r"pairs\.parquet: 2 rows one after .* such as b: the row has neither source"):
        pairs.example(1)


def test_the_cache_keeps_what_was_used_last():
    loaded = []

    def get(name: str) -> None:
        def load() -> np.ndarray:
            loaded.append(name)
            return np.zeros((10, 10, 3), np.uint8)

        cache.get(name, load)

    cache = ImageCache(n_bytes=700)
    for name in "abacab":
        get(name)

    assert loaded == ["a", "b", "c", "b"]
