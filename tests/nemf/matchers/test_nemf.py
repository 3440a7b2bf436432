from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from noise_pairs import POINTS, noise, pair, same
from official_nemf import SMALL, official_shapes, official_state_dict

from nemf import ImagePair, checkpoints, load_matcher
from nemf.calibration import Calibration
from nemf.coordinates import px_to_norm
from nemf.matchers.nemf import NemfMatcher
from nemf.model.network import NeMF
from nemf.official.names import from_official_state_dict, official_config
from nemf.search.config import SearchConfig


def test_points_get_exactly_the_flow_of_their_pixels(matcher: NemfMatcher):
    sparse, dense = matcher.match_batch([pair(query_xy_px=POINTS), pair(dense=True)])
    assert sparse.flow_px is None
    assert dense.flow_px.shape == (12, 20, 2)
    assert dense.reference_xy_px.shape == (0, 2)
    x, y = POINTS.astype(int).T
    assert np.array_equal(sparse.reference_xy_px - POINTS, dense.flow_px[y, x])
    assert 0 < dense.flow_confidence.min() < dense.flow_confidence.max() < 1
    both = next(matcher.match_batch([pair(query_xy_px=POINTS, dense=True)]))
    assert np.array_equal(both.reference_xy_px, sparse.reference_xy_px)
    assert np.array_equal(both.point_confidence, sparse.point_confidence)
    assert np.array_equal(both.flow_confidence, dense.flow_confidence)


def test_a_pair_does_not_depend_on_its_batch(matcher: NemfMatcher):
    pairs = [pair(query_xy_px=POINTS), pair("b", seed=5, query_xy_px=POINTS[:2]), pair("c", seed=7)]
    together = list(matcher.match_batch(pairs))
    apart = [next(matcher.match_batch([one])) for one in reversed(pairs)][::-1]
    assert all(same(one, other) for one, other in zip(together, apart, strict=True))
    assert not same(next(matcher.match_batch([pair("other", query_xy_px=POINTS)])), together[0])


def test_the_search_finds_better_places_than_it_starts_from(model: NeMF):
    steps = [
        NemfMatcher("n", model, torch.device("cpu"), SearchConfig(patchmatch_steps=n, refine_steps=0)) for n in (0, 4)
    ]
    y, x = np.mgrid[:12:2, :20:2]
    query_xy_px = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32)
    means = []
    for matcher in steps:
        one = pair(query_xy_px=query_xy_px)
        places_px = torch.from_numpy(next(matcher.match_batch([one])).reference_xy_px)
        scorer = matcher.model.scorer(
            matcher.encode([one]), torch.zeros(60, dtype=torch.int64), px_to_norm(torch.tensor(query_xy_px), (12, 20))
        )
        means.append(scorer(px_to_norm(places_px, (25, 15)), torch.arange(60)).mean())
    assert means[1] > means[0]


def test_a_point_outside_is_the_nearest_one_inside(matcher: NemfMatcher):
    outside = np.array([[-5, 3], [30, 20], [-0.4, 11.4]], np.float32)
    inside = np.array([[0, 3], [19, 11], [0, 11]], np.float32)
    matches = [next(matcher.match_batch([pair(query_xy_px=xy)])) for xy in (outside, inside)]
    assert same(*matches)


def test_images_of_one_pixel(matcher: NemfMatcher):
    match = matcher.match(noise(1, 1), noise(1, 7), [[0, 0]], dense=True)
    assert match.flow_px.shape == (1, 1, 2)
    assert np.isfinite(match.reference_xy_px).all()


def test_the_fingerprint_tells_weights_and_search(model: NeMF, matcher: NemfMatcher):
    cpu = torch.device("cpu")
    assert NemfMatcher("other", model, cpu, matcher.config).fingerprint == matcher.fingerprint
    assert NemfMatcher("nemf", model, cpu).fingerprint != matcher.fingerprint
    for seed, heads in ((4, 2), (3, 3)):
        other = from_official_state_dict(official_state_dict(official_shapes(**SMALL), seed), heads)
        assert NemfMatcher("nemf", other, cpu, matcher.config).fingerprint != matcher.fingerprint


def test_the_fingerprint_is_the_same_on_any_device(
    model: NeMF, matcher: NemfMatcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver without a GPU says which matcher a run on GPUs has, and a shipped calibration is for both."""
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_: module)

    assert NemfMatcher("nemf", model, torch.device("cuda"), matcher.config).fingerprint == matcher.fingerprint


def test_features_in_bfloat16(model: NeMF, matcher: NemfMatcher):
    """What is read from them is computed in full precision on a CPU; the network itself is as before."""
    in_half = NemfMatcher("nemf", model, torch.device("cpu"), replace(matcher.config, precision="bfloat16"))
    assert in_half.fingerprint != matcher.fingerprint
    one = pair(query_xy_px=POINTS)
    for ours, theirs in zip(*(m._features([one.query_rgb])[0] for m in (in_half, matcher)), strict=True):
        assert ours.dtype == torch.float32
        assert 0 < (ours - theirs).abs().max() < 0.05 * theirs.abs().max()
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values() if tensor.is_floating_point())
    assert same(next(in_half.match_batch([one])), next(in_half.match_batch([one])))


def test_the_confidence_is_the_calibrated_mass_of_the_field(model: NeMF, matcher: NemfMatcher):
    one = pair(query_xy_px=POINTS, dense=True)
    line = Calibration(temperature=0.5, mass=(0.0, 0.02, 1.0), probability=(0.1, 0.2, 0.9))
    calibrated = NemfMatcher("nemf", model, torch.device("cpu"), matcher.config, line)
    assert calibrated.fingerprint != matcher.fingerprint
    match, masses = matcher.masses(one, [1.0, 0.5])
    assert same(match, next(matcher.match_batch([replace(one, dense=False)])))
    assert np.array_equal(match.point_confidence, masses[0])
    assert np.abs(masses[1] - masses[0]).max() > 1e-4
    answer = next(calibrated.match_batch([one]))
    assert np.array_equal(answer.reference_xy_px, match.reference_xy_px)
    assert np.array_equal(answer.point_confidence, line.confidence(masses[1]).astype(np.float32))
    assert answer.flow_confidence.min() > 0.1


def test_points_beyond_those_computed_at_once_are_the_same(matcher: NemfMatcher):
    many = np.random.default_rng(3).uniform(0, 11, (21, 2)).astype(np.float32)
    together, last = matcher.match_batch([pair(query_xy_px=many), pair(query_xy_px=many[-2:])])
    assert np.array_equal(together.point_confidence[-2:], last.point_confidence)


def test_loaded_from_its_folder(model: NeMF, tmp_path: Path):
    shapes = official_shapes(**SMALL)
    config = official_config({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, 2)
    checkpoints.save(tmp_path / "nemf", model, config)
    matcher = load_matcher(str(tmp_path / "nemf"), device="cpu")
    assert matcher.fingerprint == NemfMatcher("nemf", model, torch.device("cpu")).fingerprint
    assert matcher.calibration == Calibration()
    line = Calibration(temperature=1.4, mass=(0.0, 1.0), probability=(0.1, 0.9))
    checkpoints.save(tmp_path / "fitted", model, config, calibration=line)
    assert load_matcher(str(tmp_path / "fitted"), device="cpu").calibration == line
    with pytest.raises(ValueError, match=r"takes no backbone's weights: leave out --backbone-weights x\.safetensors"):
        load_matcher(str(tmp_path / "nemf"), backbone_weights="x.safetensors")
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing; there is fitted, nemf"):
        load_matcher(str(tmp_path))


@pytest.mark.parametrize(
    "options",
    [
        {"neighbour_offset": True, "radius_decay": 0.8},
        {"grid_strides": (4, 2, 1)},
        {"positional_gradient": True, "refine_lr": 0.01},
    ],
)
def test_options_change_the_answer_and_keep_its_rules(model: NeMF, matcher: NemfMatcher, options: dict[str, object]):
    """Points get exactly the flow of their pixels, in any batch, by other fingerprints and other matches."""
    changed = NemfMatcher("nemf", model, torch.device("cpu"), replace(matcher.config, **options))
    sparse, dense = changed.match_batch([pair(query_xy_px=POINTS), pair(dense=True)])
    x, y = POINTS.astype(int).T
    assert np.array_equal(sparse.reference_xy_px - POINTS, dense.flow_px[y, x])
    assert same(sparse, next(changed.match_batch([pair(query_xy_px=POINTS)])))
    assert not same(sparse, next(matcher.match_batch([pair(query_xy_px=POINTS)])))
    assert changed.fingerprint != matcher.fingerprint


def test_many_pairs_of_any_sizes_are_matched_as_if_alone(matcher: NemfMatcher):
    """More than one group of pairs, dense and not, of different sizes and aspects."""
    pairs = [
        ImagePair(
            query_rgb=noise(3 + 3 * i, 32 - 2 * i, seed=i),
            reference_rgb=noise(24 - 2 * i, 9 + i, seed=50 + i),
            pair_id=str(i),
            query_xy_px=np.float32([[i, 2], [4.5, i / 3]])[: i % 3],
            dense=i % 4 == 0,
        )
        for i in range(11)
    ]
    together = list(matcher.match_batch(pairs))
    assert all(same(match, next(matcher.match_batch([one]))) for match, one in zip(together, pairs, strict=True))


def test_an_image_of_many_pairs_is_encoded_once(matcher: NemfMatcher, monkeypatch: pytest.MonkeyPatch):
    passes = 0
    backbone = matcher.model.backbone

    def counting(image: torch.Tensor) -> list[torch.Tensor]:
        nonlocal passes
        passes += 1
        return backbone(image)

    reference, queries = noise(30, 30), [noise(20, 20 + i, seed=i) for i in range(11)]
    pairs = [ImagePair(query_rgb=query, reference_rgb=reference, query_xy_px=POINTS[:1]) for query in queries]
    monkeypatch.setattr(matcher.model, "features", counting)  # this network has no neck
    assert len(list(matcher.match_batch(pairs))) == 11
    assert passes == 12


def test_a_flow_on_a_coarse_grid_is_that_of_points_at_its_pixels_and_even_between(model: NeMF):
    search = SearchConfig(patchmatch_steps=3, refine_steps=2, grid_strides=(3,))
    matcher = NemfMatcher("nemf", model, torch.device("cpu"), search)
    query, reference = noise(25, 40), noise(50, 30, seed=1)  # 9 x 14 pixels of the grid, 3 apart
    nodes = np.array([[0, 0], [3, 0], [39, 24], [3, 3], [6, 12]], np.float32)
    points = matcher.match(query, reference, nodes)
    dense = matcher.match(query, reference)
    x, y = nodes.astype(int).T
    assert np.allclose(points.reference_xy_px - nodes, dense.flow_px[y, x], atol=1e-3)
    between = (2 * dense.flow_px[0, 0] + dense.flow_px[0, 3]) / 3
    assert np.allclose(dense.flow_px[0, 1], between, atol=1e-3)


def test_a_strip_narrower_than_the_grid_is_searched_from_edge_to_edge(model: NeMF):
    matcher = NemfMatcher("n", model, torch.device("cpu"), SearchConfig(patchmatch_steps=2, grid_strides=(8,)))
    query, reference = noise(5, 40), noise(50, 30, seed=1)
    flow_px = matcher.match(query, reference).flow_px
    corners = np.array([[0, 0], [39, 0], [0, 4], [39, 4]], np.float32)
    actual = matcher.match(query, reference, corners).reference_xy_px
    x, y = corners.astype(int).T
    assert np.allclose(actual - corners, flow_px[y, x], atol=1e-3)


def test_an_image_in_many_pairs_is_looked_at_once(matcher: NemfMatcher, monkeypatch: pytest.MonkeyPatch):
    shared, others = noise(20, 30), [noise(21, 31, seed=seed) for seed in (1, 2, 3)]
    pairs = [ImagePair(query_rgb=shared, reference_rgb=rgb, query_xy_px=POINTS[:2], pair_id="") for rgb in others]
    expected = [next(matcher.match_batch([pair])) for pair in pairs]
    looked_at = []
    backbone = matcher.model.backbone.forward
    monkeypatch.setattr(
        matcher.model.backbone, "forward", lambda image: looked_at.append(len(image)) or backbone(image)
    )
    assert all(same(one, other) for one, other in zip(matcher.match_batch(pairs), expected, strict=True))
    assert looked_at == [1, 1, 1, 1]


def test_callers_may_be_in_inference_mode(matcher: NemfMatcher):
    with torch.inference_mode():
        actual = next(matcher.match_batch([pair(query_xy_px=POINTS)]))
    assert same(actual, next(matcher.match_batch([pair(query_xy_px=POINTS)])))


def test_the_vector_of_an_image_is_its_deepest_map_pooled_whatever_comes_with_it(matcher: NemfMatcher):
    images = [noise(24, 40, seed=seed) for seed in range(3)]
    vectors = list(matcher.embed(images))
    squashed = matcher._squash(images[1])[None]
    with torch.no_grad():
        deepest = matcher.model.backbone(squashed)[-1][0]
    assert np.allclose(vectors[1], deepest.clamp(min=0).pow(3).mean(dim=(1, 2)).pow(1 / 3).numpy(), atol=1e-5)
    (alone,) = matcher.embed(iter(images[1:2]))
    assert np.array_equal(vectors[1], alone)
