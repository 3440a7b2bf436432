"""What is kept of images within a call of a matcher, and from call to call."""

import copy
import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import zip_longest
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from noise_pairs import noise
from official_lpmflow import SMALL, official_shapes, official_state_dict
from tiny import TINY
from tiny_pmnc import TINY_PMNC
from torch import nn

from nemf import ImagePair, Match, Matcher, checkpoints, load_matcher
from nemf.matcher import RGB
from nemf.matchers.feature_cache import FeatureCache, Features, KeptFeatures
from nemf.matchers.lpmflow import LpmflowMatcher
from nemf.matchers.nemf import NemfMatcher
from nemf.matchers.pmnc import PMNCMatcher
from nemf.matchers.zoom import ZoomMatcher
from nemf.model.build import build
from nemf.official.lpmflow_names import lpmflow_config, lpmflow_network
from nemf.pmnc.network import build as build_pmnc
from nemf.search.config import SearchConfig

CPU = torch.device("cpu")


class _Encoder:
    """Gives an image's first value, as 4 numbers (16 bytes), and notes which images it is shown."""

    def __init__(self) -> None:
        self.shown: list[list[int]] = []

    def __call__(self, images: Sequence[RGB]) -> list[Features]:
        self.shown.append([int(image[0, 0, 0]) for image in images])
        return [[torch.full((4,), float(image[0, 0, 0]))] for image in images]


def _images(n: int) -> list[RGB]:
    return [np.full((1, 1, 3), number, np.uint8) for number in range(n)]


def _values(actual: list[Features]) -> list[float]:
    return [float(level[0]) for (level,) in actual]


def _keep(monkeypatch: pytest.MonkeyPatch, n_bytes: int = 2**27) -> None:
    monkeypatch.setattr("nemf.matchers.feature_cache.KEPT_BYTES", n_bytes)


def test_each_image_is_encoded_once_and_answers_come_in_order() -> None:
    encoder, (a, b, c) = _Encoder(), _images(3)
    cache = FeatureCache(encoder, KeptFeatures())

    assert _values(cache.encode([b, a, b])) == [1, 0, 1]
    assert _values(cache.encode([a, c])) == [0, 2]
    assert encoder.shown == [[1, 0], [2]]


def test_the_longest_unused_go_when_there_are_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemf.matchers.feature_cache.MAX_BYTES", 3 * 16)
    monkeypatch.setattr("nemf.matchers.feature_cache.MIN_IMAGES", 2)
    encoder, images = _Encoder(), _images(5)
    cache = FeatureCache(encoder, KeptFeatures())

    cache.encode(images[:3])
    cache.encode([images[0]])
    cache.encode([images[3]])  # 1 is the longest unused
    cache.encode([images[0], images[1]])

    assert encoder.shown == [[0, 1, 2], [3], [1]]


def test_a_pair_and_more_are_kept_in_a_call_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemf.matchers.feature_cache.MAX_BYTES", 0)
    encoder, images = _Encoder(), _images(6)
    cache = FeatureCache(encoder, KeptFeatures())

    assert _values(cache.encode(images)) == [0, 1, 2, 3, 4, 5]
    cache.encode(images[2:])
    cache.encode(images[:1])

    assert encoder.shown == [[0, 1, 2, 3, 4, 5], [0]]


def test_an_image_is_its_shape_and_pixels() -> None:
    """In whatever array they are; the encoder sees contiguous ones."""
    layouts: list[bool] = []

    def encode(images: Sequence[RGB]) -> list[Features]:
        layouts.extend(image.flags.c_contiguous for image in images)
        return encoder(images)

    encoder, image = _Encoder(), noise(4, 6)
    read_only = image.copy()
    read_only.flags.writeable = False
    flipped = np.ascontiguousarray(image[:, ::-1])[:, ::-1]
    cropped = np.concatenate([image, image], axis=1)[:, :6]
    cache = FeatureCache(encode, KeptFeatures())

    first, *others = cache.encode([np.asfortranarray(image), read_only, image, flipped, cropped])
    assert all(other is first for other in others)
    cache.encode([image.reshape(6, 4, 3), image[:, ::-1]])
    assert [len(images) for images in encoder.shown] == [1, 2]
    assert layouts == [True] * 3


def test_features_are_kept_for_the_next_calls_as_far_as_bytes_go(monkeypatch: pytest.MonkeyPatch) -> None:
    _keep(monkeypatch, 2 * 16)
    kept, encoder, images = KeptFeatures(), _Encoder(), _images(4)

    FeatureCache(encoder, kept).encode(images[:3])  # 1 and 2 are kept
    FeatureCache(encoder, kept).encode([images[1]])  # 2 is the longest unused
    FeatureCache(encoder, kept).encode([images[3]])
    assert _values(FeatureCache(encoder, kept).encode([images[1].copy(), images[3].copy()])) == [1, 3]
    assert encoder.shown == [[0, 1, 2], [3]]
    FeatureCache(encoder, kept).encode([images[2]])
    assert encoder.shown == [[0, 1, 2], [3], [2]]

    _keep(monkeypatch, 15)
    FeatureCache(encoder, kept).encode([images[0]])
    FeatureCache(encoder, kept).encode([images[2], images[0]])
    assert encoder.shown[3:] == [[0], [2, 0]]


def test_an_array_that_changed_between_calls_is_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    _keep(monkeypatch)
    kept, encoder, (image,) = KeptFeatures(), _Encoder(), _images(1)

    FeatureCache(encoder, kept).encode([image])
    image[...] = 7
    assert _values(FeatureCache(encoder, kept).encode([image])) == [7]
    image[...] = 0
    assert _values(FeatureCache(encoder, kept).encode([image])) == [0]
    assert encoder.shown == [[0], [7]]


def test_features_of_another_kind_or_number_of_threads_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    _keep(monkeypatch)
    kept, encoder, (image,) = KeptFeatures(), _Encoder(), _images(1)

    FeatureCache(encoder, kept).encode([image])
    FeatureCache(encoder, kept, kind="grid").encode([image])
    assert encoder.shown == [[0], [0]]
    monkeypatch.setattr("torch.get_num_threads", lambda: 2)
    FeatureCache(encoder, kept).encode([image])
    assert encoder.shown == [[0], [0], [0]]


def test_a_copy_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    _keep(monkeypatch)
    kept, encoder, images = KeptFeatures(), _Encoder(), _images(1)
    FeatureCache(encoder, kept).encode(images)
    for other in (copy.copy(kept), copy.deepcopy(kept)):
        FeatureCache(encoder, other).encode(images)
    assert encoder.shown == [[0], [0], [0]]


@pytest.fixture(scope="module")
def matchers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Matcher]:
    """One of each family."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoints")
    with_decoder = replace(TINY, decoder_channels=8)
    model, decoded = build(TINY), build(with_decoder)
    nn.init.normal_(decoded.decoder.output.weight, std=0.1)
    checkpoints.save(folder / "tiny", model, TINY)
    checkpoints.save(folder / "decoded", decoded, with_decoder)
    state_dict = official_state_dict(official_shapes(**SMALL), seed=3)
    lpmflow = lpmflow_network(state_dict, lpmflow_config(state_dict))
    search = SearchConfig(patchmatch_steps=2, refine_steps=1)
    mirrored = SearchConfig(point_search="mirrored-map", patchmatch_steps=2, flow_nodes=4)
    return {
        "nearest-neighbour": load_matcher(f"descriptors:{folder / 'tiny'}", device="cpu"),
        "decoded": load_matcher(f"descriptors:{folder / 'decoded'}", device="cpu"),
        "nemf": NemfMatcher("nemf", model, CPU, search),
        "nemf, mirrored": NemfMatcher("mirrored", model, CPU, mirrored),
        "pmnc": PMNCMatcher("pmnc", build_pmnc(TINY_PMNC), CPU),
        "lpmflow": LpmflowMatcher("lpmflow", lpmflow, CPU),
    }


@pytest.fixture(params=["nearest-neighbour", "decoded", "nemf", "nemf, mirrored", "pmnc", "lpmflow"])
def matcher(request: pytest.FixtureRequest, matchers: dict[str, Matcher]) -> Matcher:
    """Of a network that lives as long as this module; nothing is kept of other tests."""
    matcher = matchers[request.param]
    matcher._kept = KeptFeatures()
    return matcher


@contextmanager
def _passes(matcher: Matcher) -> Iterator[list[int]]:
    """Number of images of each pass of the matcher's backbone within the block."""
    passes: list[int] = []
    backbone = matcher.model.backbone if hasattr(matcher, "model") else matcher.backbone
    handle = backbone.register_forward_hook(lambda _network, images, _maps: passes.append(len(images[0])))
    yield passes
    handle.remove()


def _pairs(*seeds: tuple[int, int]) -> list[ImagePair]:
    """Pairs of the images of these seeds, one array object for each; dense where the query is that of seed 0."""
    images = {seed: noise(16 + seed, 20, seed=seed) for pair in seeds for seed in pair}
    points = np.array([[3, 4], [10, 5], [19, 0]], np.float32)
    return [
        ImagePair(
            query_rgb=images[query],
            reference_rgb=images[reference],
            query_xy_px=points,
            dense=query == 0,
            score_maps=True,
            pair_id=f"{query} {reference}",
        )
        for query, reference in seeds
    ]


def _kept_tensors(matcher: Matcher) -> list[torch.Tensor]:
    return [level for features in matcher._kept._recent._features.values() for level in features]


def _same(match: Match, other: Match) -> bool:
    names = ("reference_xy_px", "point_confidence", "flow_px", "flow_confidence", "score_maps")
    return all(np.array_equal(getattr(match, name), getattr(other, name)) for name in names)


def test_an_image_of_an_earlier_call_is_not_encoded_again(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    _keep(monkeypatch)
    each = 2 if matcher.name == "mirrored" else 1
    with _passes(matcher) as passes:
        list(matcher.match_batch(_pairs((1, 2), (2, 1))))
        assert passes == [1] * 2 * each
        list(matcher.match_batch(_pairs((2, 3), (3, 1))))
        assert passes == [1] * 3 * each
        matcher.masses(*_pairs((1, 3)), [0.1])
        assert passes == [1] * 3 * each


def test_answers_do_not_depend_on_what_was_kept(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """In other calls, orders, and calls that take turns, with room for all features and for half of them."""
    first, second, third = [(0, 1), (1, 2)], [(2, 1)], [(1, 2), (0, 1)]
    expected = {pair.pair_id: next(matcher.match_batch([pair])) for pair in _pairs(*first, *second)}

    def match(*calls: list[tuple[int, int]]) -> None:
        """Of each call a pair in turns."""
        for pairs in zip_longest(*(_matched(matcher, _pairs(*seeds)) for seeds in calls)):
            for pair, match in filter(None, pairs):
                assert _same(match, expected[pair.pair_id])

    _keep(monkeypatch)
    with _passes(matcher) as passes:
        match(first)
        match(second)
        before = len(passes)
        match(third, second)
        assert len(passes) == before
        _keep(monkeypatch, sum(level.nbytes for level in _kept_tensors(matcher)) // 2)
        match(first)
        match(third, second)
        assert len(passes) > before


def _matched(matcher: Matcher, pairs: list[ImagePair]) -> Iterator[tuple[ImagePair, Match]]:
    return zip(pairs, matcher.match_batch(pairs), strict=True)


def test_a_matcher_keeps_no_more_than_it_may_and_reads_pixels_once(
    matcher: Matcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hasattr(matcher, "_encode_batch"):
        monkeypatch.setattr(matcher, "_encode_batch", 4)  # as on a GPU
    read: list[int] = []
    with_count = SimpleNamespace(sha256=lambda pixels: read.append(len(pixels)) or hashlib.sha256(pixels))
    monkeypatch.setattr("nemf.matchers.feature_cache.hashlib", with_count)
    pairs = _pairs((1, 2), (2, 3), (3, 4), (4, 5), (2, 5))
    _keep(monkeypatch)
    list(matcher.match_batch(pairs))
    assert len(read) == (10 if matcher.name == "mirrored" else 5)
    kept = _kept_tensors(matcher)
    # what a tensor is a view of is in memory too
    assert sum(level.untyped_storage().nbytes() for level in kept) <= 1.1 * sum(level.nbytes for level in kept)

    limit = sum(level.nbytes for level in kept) // 2
    _keep(monkeypatch, limit)
    list(matcher.match_batch(pairs))
    assert limit / 2 < sum(level.nbytes for level in _kept_tensors(matcher)) <= limit


def test_a_copy_of_a_matcher_may_get_another_network(
    matchers: dict[str, Matcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    _keep(monkeypatch)
    matcher, (pair,) = matchers["nearest-neighbour"], _pairs((1, 2))
    before = next(matcher.match_batch([pair]))
    other = copy.deepcopy(matcher)
    with torch.no_grad():
        for parameter in other.backbone.parameters():
            parameter += torch.rand(parameter.shape) / 10
    assert not _same(next(other.match_batch([pair])), before)
    assert _same(next(matcher.match_batch([pair])), before)


def test_features_made_in_inference_mode_serve_outside_of_it(matcher: Matcher, monkeypatch: pytest.MonkeyPatch) -> None:
    _keep(monkeypatch)
    pairs = _pairs((1, 2))
    with torch.inference_mode():
        (inside,) = matcher.match_batch(pairs)
    (outside,) = matcher.match_batch(pairs)
    assert _same(inside, outside)


def test_a_second_look_finds_the_same_whatever_was_kept(
    matchers: dict[str, Matcher], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its calls come between those of the first look, and their crops take places of the images."""
    zoomed = ZoomMatcher("zoomed", matchers["nearest-neighbour"])
    pairs = _pairs((0, 1), (1, 2), (2, 0))
    expected = list(zoomed.match_batch(pairs))
    for n_bytes in (2**27, 10_000):
        _keep(monkeypatch, n_bytes)
        for _ in range(2):
            assert all(map(_same, zoomed.match_batch(pairs), expected))


class _Slow(torch.Tensor):
    """16 bytes; other threads run while they are counted."""

    @property
    def nbytes(self) -> int:
        time.sleep(1e-5)
        return 16


def test_threads_may_share_a_matcher(monkeypatch: pytest.MonkeyPatch) -> None:
    _keep(monkeypatch, 3 * 16)
    kept, images = KeptFeatures(), _images(8)

    def encode(images: Sequence[RGB]) -> list[Features]:
        return [[torch.full((4,), float(image[0, 0, 0])).as_subclass(_Slow)] for image in images]

    def encode_often(seed: int) -> None:
        for n in np.random.default_rng(seed).integers(0, 8, 50):
            assert _values(FeatureCache(encode, kept).encode([images[n]])) == [n]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(encode_often, range(4)))
    assert kept._recent._n_bytes == 3 * 16 == 16 * len(kept._recent._features)
