"""The LPMFlow matcher: planted flows, and answers that depend on the pair alone."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from official_lpmflow import SMALL, official_shapes, official_state_dict

from nemf import checkpoints, load_matcher
from nemf.calibration import Calibration
from nemf.lpmflow.network import EncodedFlow, LPMFlow
from nemf.matcher import ImageEmbedder, ImagePair
from nemf.matchers.confidence import MassMatcher
from nemf.matchers.lpmflow import LpmflowMatcher
from nemf.official.lpmflow_names import lpmflow_config, lpmflow_network

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model() -> LPMFlow:
    state_dict = official_state_dict(official_shapes(**SMALL), seed=3)
    return lpmflow_network(state_dict, lpmflow_config(state_dict))


@pytest.fixture(scope="module")
def matcher(model: LPMFlow) -> LpmflowMatcher:
    return LpmflowMatcher("lpmflow", model, CPU)


def _pair(seed: int = 0, query_hw: tuple[int, int] = (48, 60), reference_hw: tuple[int, int] = (50, 40)) -> ImagePair:
    random = np.random.Generator(np.random.PCG64(seed))
    query, reference = (random.integers(0, 256, (*hw, 3), np.uint8) for hw in (query_hw, reference_hw))
    points = random.uniform(0, 40, (5, 2)).astype(np.float32)
    return ImagePair(query_rgb=query, reference_rgb=reference, query_xy_px=points, dense=True, score_maps=True)


def _plant(
    matcher: LpmflowMatcher, monkeypatch: pytest.MonkeyPatch, flow: torch.Tensor, correlation: torch.Tensor
) -> None:
    """Every pair is encoded as this flow and this fine correlation."""
    nothing = torch.zeros(1, 17, 32)

    def encode_tokens(source: torch.Tensor, target: torch.Tensor) -> EncodedFlow:
        return EncodedFlow(
            backbone_source=nothing,
            backbone_target=nothing,
            encoder_source=nothing,
            encoder_target=nothing,
            correlations=4 * [correlation],
            flows=[flow] * 4,
            flow=flow,
        )

    monkeypatch.setattr(matcher.model, "encode_tokens", encode_tokens)


def test_no_flow_keeps_relative_places(matcher: LpmflowMatcher, monkeypatch: pytest.MonkeyPatch):
    _plant(matcher, monkeypatch, torch.zeros(1, 2, 32, 32), torch.ones(1, 64, 64))
    pair = replace(_pair(), query_xy_px=np.array([[0, 0], [59, 47], [29.5, 23.5], [100, -9]], np.float32))
    (match,) = matcher.match_batch([pair])
    expected = np.array([[0, 0], [39, 49], [19.5, 24.5], [39, 0]])  # the last one is outside: the nearest place inside
    np.testing.assert_allclose(match.reference_xy_px, expected, atol=1e-4)
    assert match.flow_px is not None
    np.testing.assert_allclose(match.flow_px[47, 59], [39 - 59, 49 - 47], atol=1e-4)


def test_a_shift_of_cells_is_a_shift_of_pixels(matcher: LpmflowMatcher, monkeypatch: pytest.MonkeyPatch):
    """32 cells over 128 pixels, 4 each; images of 128 pixels are seen as they are."""
    flow = torch.tensor([3.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, 32, 32)
    _plant(matcher, monkeypatch, flow, torch.ones(1, 64, 64))
    (match,) = matcher.match_batch([_pair(query_hw=(128, 128), reference_hw=(128, 128))])
    assert match.flow_px is not None
    np.testing.assert_allclose(match.flow_px, np.broadcast_to([12, -4], (128, 128, 2)), atol=1e-3)


def test_the_flow_between_centres_is_bilinear(matcher: LpmflowMatcher, monkeypatch: pytest.MonkeyPatch):
    """Cell j of the flow moves by j: its centre is at pixel 4 j + 1.5, and pixel x moves by (x - 1.5) / 4 cells."""
    flow = torch.stack([torch.arange(32.0).expand(32, 32), torch.zeros(32, 32)])[None]
    _plant(matcher, monkeypatch, flow, torch.ones(1, 64, 64))
    pair = _pair(query_hw=(128, 128), reference_hw=(128, 128))
    pair = replace(pair, query_xy_px=np.array([[1.5, 60], [9.5, 60], [10.5, 60], [0, 60]], np.float32))
    (match,) = matcher.match_batch([pair])
    moved = match.reference_xy_px[:, 0] - pair.query_xy_px[:, 0]
    np.testing.assert_allclose(moved, [0, 8, 9, 0], atol=1e-3)


def test_confidence_is_the_mass_round_the_answer(matcher: LpmflowMatcher, monkeypatch: pytest.MonkeyPatch):
    """The query's left half is sure of the cell that its flow ends in, the right half of one far from it."""
    correlation = torch.zeros(1, 64, 64)
    for cell in range(64):
        sure = cell if cell % 8 < 4 else (cell + 36) % 64
        correlation[0, cell, sure] = 8
    _plant(matcher, monkeypatch, torch.zeros(1, 2, 32, 32), correlation)
    pair = _pair(query_hw=(128, 128), reference_hw=(128, 128))
    points = np.array([[23.5, 55.5], [103.5, 55.5]], np.float32)  # centres of fine cells of 16 pixels
    (match,) = matcher.match_batch([replace(pair, query_xy_px=points)])
    assert match.point_confidence[0] > 0.9
    assert match.point_confidence[1] < 0.1
    assert match.flow_confidence is not None
    assert match.flow_confidence[55, 23] > 0.9
    assert match.flow_confidence[55, 103] < 0.1
    assert match.score_maps is not None
    assert match.score_maps.shape == (2, 8, 8)
    assert match.score_maps[0].argmax() == 3 * 8 + 1


def test_a_point_has_the_flow_of_its_pixel(matcher: LpmflowMatcher):
    pair = _pair()
    pair = replace(pair, query_xy_px=np.array([[7, 11], [59, 0]], np.float32))
    (match,) = matcher.match_batch([pair])
    assert match.flow_px is not None
    assert match.flow_confidence is not None
    assert (match.flow_px.shape, match.flow_confidence.shape) == ((48, 60, 2), (48, 60))
    at_points = match.flow_px[[11, 0], [7, 59]] + pair.query_xy_px
    np.testing.assert_allclose(match.reference_xy_px, at_points, atol=1e-3)
    assert ((match.flow_confidence >= 0) & (match.flow_confidence <= 1)).all()


def test_a_pair_has_the_same_answer_in_any_batch(matcher: LpmflowMatcher):
    pairs = [_pair(0), _pair(1), _pair(2)]
    pairs.append(replace(pairs[0], reference_rgb=pairs[1].query_rgb))
    alone = [next(iter(matcher.match_batch([pair]))) for pair in pairs]
    together = list(matcher.match_batch(pairs[::-1]))[::-1]
    for one, other in zip(alone, together, strict=True):
        for field in ("reference_xy_px", "point_confidence", "flow_px", "flow_confidence", "score_maps"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_points_do_not_depend_on_what_else_is_asked(matcher: LpmflowMatcher):
    pair = _pair()
    (whole,) = matcher.match_batch([pair])
    (points_only,) = matcher.match_batch([replace(pair, dense=False, score_maps=False)])
    np.testing.assert_array_equal(whole.reference_xy_px, points_only.reference_xy_px)
    np.testing.assert_array_equal(whole.point_confidence, points_only.point_confidence)
    assert points_only.flow_px is None
    assert points_only.score_maps is None
    (dense_only,) = matcher.match_batch([replace(pair, query_xy_px=None)])
    assert len(dense_only.reference_xy_px) == 0
    np.testing.assert_array_equal(dense_only.flow_px, whole.flow_px)


def test_masses_are_those_of_the_confidence(matcher: LpmflowMatcher):
    assert isinstance(matcher, MassMatcher)
    match, masses = matcher.masses(_pair(), [matcher.calibration.temperature, 1.0])
    assert masses.shape == (2, 5)
    np.testing.assert_array_equal(match.point_confidence, masses[0])


def test_images_as_vectors_and_salience(matcher: LpmflowMatcher):
    assert isinstance(matcher, ImageEmbedder)
    rgb = _pair().query_rgb
    (vector,) = matcher.embed([rgb])
    assert vector.shape == (32,)
    assert matcher.salience(rgb).shape == (4, 4)


def test_a_saved_network_is_a_matcher_by_the_name_of_its_folder(model: LPMFlow, tmp_path: Path):
    state_dict = official_state_dict(official_shapes(**SMALL), seed=3)
    folder = tmp_path / "saved"
    checkpoints.save(folder, model, lpmflow_config(state_dict), calibration=Calibration(temperature=0.5))
    loaded = load_matcher(str(folder), device="cpu")
    assert isinstance(loaded, LpmflowMatcher)
    assert loaded.calibration == Calibration(temperature=0.5)
    same = LpmflowMatcher("same", model, CPU, Calibration(temperature=0.5))
    assert loaded.fingerprint == same.fingerprint
    assert loaded.fingerprint != LpmflowMatcher("other", model, CPU).fingerprint
    (one,), (other,) = loaded.match_batch([_pair()]), same.match_batch([_pair()])
    np.testing.assert_array_equal(one.reference_xy_px, other.reference_xy_px)
    with pytest.raises(ValueError, match="option 'seed' is unknown; there are zoom"):
        load_matcher(f"{folder}?seed=1", device="cpu")
    with pytest.raises(ValueError, match=r"descriptors:.* needs a NeMF network; .* holds a LPMFlow"):
        load_matcher(f"descriptors:{folder}", device="cpu")
