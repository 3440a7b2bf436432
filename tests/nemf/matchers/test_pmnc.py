import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pmnc import TINY_PMNC

from nemf import ImagePair, Match, checkpoints, load_matcher
from nemf.calibration import Calibration
from nemf.matchers.pmnc import PMNCMatcher
from nemf.pmnc.config import PMNCSearch
from nemf.pmnc.network import PMNC, build
from nemf.training.pmnc import initialize_at_consensus

POINTS = np.array([[3, 4], [20, 11], [39, 0], [0, 23]], np.float32)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> PMNC:
    torch.manual_seed(0)
    model = build(TINY_PMNC)
    initialize_at_consensus(model)
    return model


@pytest.fixture(scope="module")
def matcher(model: PMNC) -> PMNCMatcher:
    return PMNCMatcher("pmnc", model, CPU)


def noise(*hw: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-hw[0] // 6), -(-hw[1] // 6), 3), dtype=np.uint8)
    return coarse.repeat(6, axis=0).repeat(6, axis=1)[: hw[0], : hw[1]]


def pair(seed: int = 0, **options: object) -> ImagePair:
    return ImagePair(query_rgb=noise(24, 40, seed=seed), reference_rgb=noise(50, 30, seed=seed + 1), **options)


def same(match: Match, other: Match) -> bool:
    arrays = ("reference_xy_px", "point_confidence", "flow_px", "flow_confidence", "score_maps")
    return all(np.array_equal(getattr(match, name), getattr(other, name)) for name in arrays)


def test_an_image_and_itself(matcher: PMNCMatcher):
    rgb = noise(48, 64, seed=5)
    points = np.array([[32, 24], [20, 30], [44.5, 17]], np.float32)
    match = matcher.match(rgb, rgb, points, dense=True)
    assert np.abs(match.reference_xy_px - points).max() < 2
    assert np.abs(match.flow_px[12:36, 16:48]).max() < 3
    assert match.flow_px.shape == (48, 64, 2)
    assert match.flow_confidence.shape == (48, 64)
    assert 0 < match.flow_confidence.min() <= match.flow_confidence.max() <= 1
    assert ((match.point_confidence > 0) & (match.point_confidence <= 1)).all()
    assert match.answer_grid_hw is None


def test_the_same_answers_in_any_batch(matcher: PMNCMatcher):
    pairs = [pair(seed, query_xy_px=POINTS, dense=seed == 1, score_maps=True) for seed in range(3)]
    together = list(matcher.match_batch(pairs))
    alone = [next(matcher.match_batch([one])) for one in reversed(pairs)][::-1]
    assert all(same(one, other) for one, other in zip(together, alone, strict=True))
    fewer = replace(pairs[0], query_xy_px=POINTS[1:2])
    match = next(matcher.match_batch([fewer]))
    assert np.array_equal(match.reference_xy_px, together[0].reference_xy_px[1:2])
    assert np.array_equal(match.point_confidence, together[0].point_confidence[1:2])
    assert np.array_equal(match.score_maps, together[0].score_maps[1:2])


def test_points_do_not_depend_on_the_flow_which_has_their_matches(matcher: PMNCMatcher):
    sparse, dense = matcher.match_batch([pair(query_xy_px=POINTS), pair(query_xy_px=POINTS, dense=True)])
    assert np.array_equal(sparse.reference_xy_px, dense.reference_xy_px)
    assert sparse.flow_px is None
    x, y = POINTS.astype(int).T
    assert np.abs(dense.flow_px[y, x] - (dense.reference_xy_px - POINTS)).max() < 0.1


def test_a_point_outside_is_the_nearest_one_inside(matcher: PMNCMatcher):
    outside = np.array([[-9, 4], [60, 30]], np.float32)
    inside = np.array([[0, 4], [39, 23]], np.float32)
    one, other = (next(matcher.match_batch([pair(query_xy_px=points)])) for points in (outside, inside))
    assert np.array_equal(one.reference_xy_px, other.reference_xy_px)
    assert len(next(matcher.match_batch([pair()])).reference_xy_px) == 0


@pytest.mark.parametrize("hw", [(1, 1), (1, 40), (3, 2)])
def test_images_of_a_few_pixels(matcher: PMNCMatcher, hw: tuple[int, int]):
    match = matcher.match(noise(*hw), noise(9, 7), [[0, 0]], dense=True)
    assert np.isfinite(match.flow_px).all()
    assert np.isfinite(match.reference_xy_px).all()


def test_the_score_map_is_greatest_where_the_point_is(matcher: PMNCMatcher):
    rgb = noise(64, 64, seed=5)
    points = np.array([[36, 28]], np.float32)
    match = next(
        matcher.match_batch([ImagePair(query_rgb=rgb, reference_rgb=rgb, query_xy_px=points, score_maps=True)])
    )
    assert match.score_maps.shape == (1, 8, 8)
    assert np.unravel_index(match.score_maps[0].argmax(), (8, 8)) == (3, 4)


def test_masses_at_every_temperature(matcher: PMNCMatcher):
    match, masses = matcher.masses(pair(query_xy_px=POINTS), [1.0, 4.0])
    assert masses.shape == (2, 4)
    assert np.array_equal(matcher.calibration.confidence(masses[0]).astype(np.float32), match.point_confidence)


def test_whatever_changes_an_answer_is_in_the_fingerprint(matcher: PMNCMatcher, model: PMNC):
    others = [
        PMNCMatcher("pmnc", model, CPU, PMNCSearch(iterations=3)),
        PMNCMatcher("pmnc", model, CPU, PMNCSearch(propagation="absolute")),
        PMNCMatcher("pmnc", model, CPU, PMNCSearch(precision="bfloat16")),
        PMNCMatcher("pmnc", model, CPU, calibration=Calibration(temperature=2.0)),
    ]
    assert len({matcher.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert PMNCMatcher("other", model, CPU).fingerprint == matcher.fingerprint


def test_a_checkpoint_brings_its_search_and_options_come_before_it(model: PMNC, matcher: PMNCMatcher, tmp_path: Path):
    calibration = Calibration(temperature=0.5)
    checkpoints.save(tmp_path, model, TINY_PMNC, search={"iterations": 5}, calibration=calibration)
    loaded = load_matcher(str(tmp_path), device="cpu")
    assert isinstance(loaded, PMNCMatcher)
    assert loaded.config == PMNCSearch(iterations=5)
    assert loaded.calibration == calibration
    named = load_matcher(f"{tmp_path}?iterations=8&propagation=absolute", device="cpu")
    assert named.config == PMNCSearch(iterations=8, propagation="absolute")
    one, other = (next(m.match_batch([pair(query_xy_px=POINTS)])) for m in (loaded, matcher))
    assert np.array_equal(one.reference_xy_px, other.reference_xy_px)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"kernels": [4, 1]}, r"field kernels must be a list of 1 to 4 odd numbers from 1 to 9; got \[4, 1\]"),
        ({"channels": [4]}, "there must be a kernel for each number of channels"),
        ({"channels": [5, 1]}, "model.safetensors does not fit the network of config.json"),
        ({"feature_size": 999}, "feature_size 999 asks for correlations of 1.0e.12 values"),
        ({"image_size": "large"}, "field image_size must be a whole number"),
        ({"search": {"iterations": -1}}, "field search.iterations must be a whole number from 0 to 1000; got -1"),
        ({"search": {"refine_steps": 1}}, "search has unknown fields: refine_steps"),
        ({"search": {"precision": "bfloat16"}}, "search has unknown fields: precision"),
        ({"search": []}, "search must be a JSON object"),
    ],
)
def test_a_damaged_checkpoint(model: PMNC, change: dict, fault: str, tmp_path: Path):
    checkpoints.save(tmp_path, model, TINY_PMNC)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ValueError, match=fault):
        load_matcher(str(tmp_path), device="cpu")


def test_options_that_cannot_be(model: PMNC, tmp_path: Path):
    checkpoints.save(tmp_path, model, TINY_PMNC)
    for text, fault in {
        "iterations=x": "option iterations must be a whole number; got 'x'",
        "iterations=2000": "iterations must be a whole number from 0 to 1000; got 2000",
        "propagation=far": "option propagation must be one of offset, absolute; got 'far'",
        "seed=1": "option 'seed' is unknown; there are iterations, propagation, precision, zoom",
    }.items():
        with pytest.raises(ValueError, match=fault):
            load_matcher(f"{tmp_path}?{text}", device="cpu")


def test_images_that_the_network_cannot_take(model: PMNC):
    with pytest.raises(ValueError, match=r"images must have shape \(B, 3, 64, 64\); got \(1, 3, 32, 64\)"):
        model.features(torch.zeros(1, 3, 32, 64))
    with pytest.raises(ValueError, match="images must be finite"):
        model.features(torch.full((1, 3, 64, 64), torch.nan))
