import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage.transform import warp
from torch import nn

from nemf import ImagePair, Match, load_matcher
from nemf.coordinates import pixel_grid, rescale_px
from nemf.flow_map import folded_share
from nemf.matchers import nearest_neighbour
from nemf.matchers.nearest_neighbour import NearestNeighbourMatcher
from nemf.model.backbone import Backbone, build_backbone
from nemf.model.backbone_config import BackboneConfig

SIFT = "nearest-neighbour:dense-sift"
MOBILENET = "nearest-neighbour:timm/mobilenetv1_100"
RAW = BackboneConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class Patches(nn.Module):
    """A tiny network: random projections of patches of 16 x 16 pixels; counts its passes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.passes = 0
        self.conv = nn.Conv2d(3, 32, 16, stride=16)
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.conv.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        self.passes += 1
        return [self.conv(image - 0.5)]


def patches(seed: int = 0, **options: object) -> NearestNeighbourMatcher:
    return NearestNeighbourMatcher("patches", Backbone("patches", Patches(seed), RAW), torch.device("cpu"), **options)


def planted(
    maps: Callable[[torch.Tensor], list[torch.Tensor]], config: BackboneConfig = RAW, **options: object
) -> NearestNeighbourMatcher:
    """The matcher of a network that is a function."""

    class Planted(nn.Module):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return maps(image)

    return NearestNeighbourMatcher("planted", Backbone("planted", Planted(), config), torch.device("cpu"), **options)


def noise(*hw: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)


def same(match: Match, other: Match) -> bool:
    arrays = ("reference_xy_px", "point_confidence", "flow_px", "flow_confidence")
    return all(np.array_equal(getattr(match, name), getattr(other, name)) for name in arrays)


def test_a_planted_translation_is_found():
    query = noise(320, 320)
    reference = np.roll(query, (48, -32), axis=(0, 1))
    points = np.array([[x, y] for x in (71.5, 151.5, 247.5) for y in (55.5, 183.5, 231.5)], np.float32)
    match = patches().match(query, reference, points)
    assert np.abs(match.reference_xy_px - (points + np.array([-32, 48]))).max() <= 2  # half a score cell is 1 px
    assert match.point_confidence.min() > 0.95


def test_images_of_other_sizes_answer_in_their_own_pixels():
    photograph = Image.fromarray(skimage.data.astronaut())
    query, reference = photograph.resize((160, 320)), photograph.resize((640, 240))
    points = np.array([[40, 80], [80, 150], [60, 300], [130, 100]], np.float32)
    expected = rescale_px(torch.from_numpy(points), (320, 160), (240, 640)).numpy()
    match = load_matcher(SIFT).match(query, reference, points)
    assert np.abs(match.reference_xy_px - expected).max() <= 8  # a score cell is 4 px wide


@pytest.mark.parametrize("photograph", ["astronaut", "chelsea", "coffee"])
def test_dense_sift_finds_most_points_of_a_warped_photograph(photograph: str):
    reference = getattr(skimage.data, photograph)()
    height, width = reference.shape[:2]

    def warped(xy: np.ndarray) -> np.ndarray:
        """The position of a query pixel in the reference: a wave of 3 % and a shift."""
        wave_x = 0.03 * width * np.sin(2 * np.pi * xy[:, 1] / height)
        wave_y = 0.03 * height * np.cos(2 * np.pi * xy[:, 0] / width)
        return xy + np.stack([wave_x + 7, wave_y - 5], axis=1)

    query = warp(reference, warped, order=1, mode="reflect", preserve_range=True).astype(np.uint8)
    points = np.random.default_rng(0).uniform(0.15, 0.85, (100, 2)) * [width, height]
    match = load_matcher(SIFT).match(query, reference, points)
    error_px = np.linalg.norm(match.reference_xy_px - warped(points), axis=1)
    assert np.median(error_px) < 5
    assert np.mean(error_px < 0.03 * max(height, width)) > 0.8


def test_the_window_makes_answers_finer_than_a_cell():
    reference = skimage.data.astronaut()
    shift_px = np.array([3.3, 4.7])
    query = warp(reference, lambda xy: xy + shift_px, order=1, preserve_range=True).astype(np.uint8)
    points = np.random.default_rng(0).uniform(60, 450, (200, 2))

    def error_px(options: str) -> float:
        match = load_matcher(f"{SIFT}{options}").match(query, reference, points)
        return float(np.median(np.linalg.norm(match.reference_xy_px - points - shift_px, axis=1)))

    assert error_px("") < 0.8 * error_px("?window=0")


@pytest.mark.parametrize("name", [SIFT, MOBILENET])
def test_an_answer_does_not_depend_on_its_batch(name: str, mobilenet_file: Path):
    weights = str(mobilenet_file) if name == MOBILENET else None
    matcher = load_matcher(f"{name}?image_size=160", backbone_weights=weights, device="cpu")
    images = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()]
    generator = np.random.default_rng(0)
    pairs = [
        ImagePair(
            query_rgb=images[i],
            reference_rgb=images[j],
            query_xy_px=generator.uniform(0, 300, (count, 2)).astype(np.float32),
            dense=count == 3,
        )
        for (i, j), count in zip([(0, 1), (1, 0), (2, 1), (0, 2), (1, 1)], [1, 3, 40, 16, 0], strict=True)
    ]
    alone = [next(matcher.match_batch([pair])) for pair in pairs]
    order = [3, 1, 4, 1, 0, 2, 2]
    mixed = matcher.match_batch([pairs[i] for i in order])
    assert all(same(match, alone[i]) for i, match in zip(order, mixed, strict=True))
    halves = [*matcher.match_batch(pairs[:2]), *matcher.match_batch(pairs[2:])]
    assert all(same(match, other) for match, other in zip(halves, alone, strict=True))


def test_an_answer_does_not_depend_on_those_it_is_encoded_with(monkeypatch, mobilenet_file: Path):
    """Batches of 4 images, as on a GPU of 32: whichever images an image comes with, and at whichever place."""
    monkeypatch.setitem(nearest_neighbour._ENCODE_PIXELS, "cpu", 4 * 64**2)
    matcher = load_matcher(f"{MOBILENET}?image_size=64", backbone_weights=str(mobilenet_file), device="cpu")
    images = [noise(40 + 8 * n, 70, seed=n) for n in range(7)]
    points = np.array([[3, 4], [60.5, 20]], np.float32)
    pairs = [
        ImagePair(query_rgb=images[i], reference_rgb=images[i + 1], query_xy_px=points, dense=True) for i in range(6)
    ]
    shapes = []
    matcher.backbone.register_forward_pre_hook(lambda _network, inputs: shapes.append(tuple(inputs[0].shape)))

    together = list(matcher.match_batch(pairs))
    assert shapes == [(4, 3, 64, 64)] * 3  # the seven images of three times two pairs
    alone = [next(matcher.match_batch([pair])) for pair in pairs]
    backwards = list(matcher.match_batch(pairs[::-1]))[::-1]
    vectors, reversed_vectors = list(matcher.embed(images)), list(matcher.embed(images[::-1]))[::-1]

    assert set(shapes) == {(4, 3, 64, 64)}
    assert all(same(match, other) for match, other in zip(together, alone, strict=True))
    assert all(same(match, other) for match, other in zip(together, backwards, strict=True))
    assert len(vectors) == 7
    assert all(np.array_equal(vector, other) for vector, other in zip(vectors, reversed_vectors, strict=True))


def test_an_image_is_encoded_once_per_batch(monkeypatch):
    matcher = patches()
    network = matcher.backbone.network
    a, b, c = (noise(20, 20, seed=seed) for seed in range(3))
    shown = [(a, b), (b, c), (a, c), (a, a)]
    pairs = [ImagePair(query_rgb=q, reference_rgb=r, query_xy_px=np.ones((1, 2), np.float32)) for q, r in shown]
    network.passes = 0
    expected = list(matcher.match_batch(pairs))
    assert network.passes == 3

    monkeypatch.setattr("nemf.matchers.feature_cache.MAX_BYTES", 0)
    monkeypatch.setattr("nemf.matchers.feature_cache.MIN_IMAGES", 1)
    forgetful = list(matcher.match_batch(pairs))
    assert network.passes > 6
    assert all(same(match, other) for match, other in zip(forgetful, expected, strict=True))


def test_the_network_sees_the_squashed_and_normalised_image():
    seen = []

    def network(image: torch.Tensor) -> list[torch.Tensor]:
        seen.append(image)
        return [image]

    def weights(n_in: int, n_out: int) -> np.ndarray:
        """(n_out, n_in): a triangle as wide as two output pixels around each, cut off at the edges."""
        position = (np.arange(n_out) + 0.5) * n_in / n_out - 0.5
        triangle = 1 - np.abs(np.arange(n_in) - position[:, None]) / max(1, n_in / n_out)
        return np.clip(triangle, 0, None) / np.clip(triangle, 0, None).sum(axis=1, keepdims=True)

    mean, std = np.array([0.2, 0.3, 0.4]), np.array([0.5, 0.25, 0.125])
    config = BackboneConfig(mean=tuple(mean), std=tuple(std))
    image = noise(48, 80)
    planted(network, config, image_size=32).encode(image)
    squashed = np.einsum("yh,xw,hwc->yxc", weights(48, 32), weights(80, 32), image)
    expected = (squashed / 255 - mean) / std
    actual = seen[-1][0].permute(1, 2, 0).numpy()
    assert actual.shape == (32, 32, 3)
    assert (np.abs(actual - expected) * std).max() <= 1.5 / 255  # Pillow rounds after each of two passes


def test_cells_between_those_of_the_network_are_interpolated_by_area():
    def network(image: torch.Tensor) -> list[torch.Tensor]:
        ramp = torch.arange(4.0).expand(4, 4)
        return [torch.stack([ramp, ramp.T, torch.ones(4, 4)])[None]]

    x, y, one = planted(network, image_size=64).encode(noise(9, 9))
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])  # (i + 1/2) / 2 - 1/2, within 0..3
    assert torch.allclose(x / one, expected.expand(8, 8), atol=1e-5)
    assert torch.allclose(y / one, expected[:, None].expand(8, 8), atol=1e-5)
    assert torch.allclose(x**2 + y**2 + one**2, torch.ones(8, 8))


def test_the_answer_is_the_weighted_mean_of_the_cells_in_the_window():
    matcher = patches(window=0.25, temperature=0.02, image_size=32)  # 16 score cells a side, so up to four away
    score = torch.full((2, *matcher.score_hw), -1.0)
    score[0, 5, 6] = 0.5  # the best, weight 1
    score[0, 5, 10] = 0.5 - 0.02 * math.log(3)  # four to the right, weight 1/3
    score[0, 9, 6] = 0.5 - 0.02 * math.log(1.5)  # four below, weight 2/3
    score[0, 5, 11] = score[0, 10, 6] = 0.5 - 1e-6  # five away
    score[1, 0, 0] = 0.7
    xy, best = matcher._read_out(score)
    assert torch.allclose(xy, torch.tensor([[6 + 4 / 6, 5 + 4 / 3], [0, 0]]), atol=1e-5)
    assert torch.equal(best, torch.tensor([0.5, 0.7]))
    assert torch.equal(patches(window=0, image_size=32)._read_out(score)[0], torch.tensor([[6.0, 5], [0, 0]]))


def test_the_window_ends_where_the_image_does():
    """Equal scores in the window of a corner: its mean is the middle of the cells that there are."""
    matcher = patches(window=0.25, image_size=32)
    score = torch.full((2, *matcher.score_hw), 0.5)
    score[0, 15, 0] = score[1, 3, 15] = 0.5 + 1e-7
    xy, _ = matcher._read_out(score)
    assert torch.allclose(xy, torch.tensor([[2, 13], [13, 3.5]]), atol=1e-4)


def test_a_point_outside_is_answered_as_the_nearest_inside():
    query, reference = noise(100, 80), noise(90, 120, seed=1)
    match = patches().match(query, reference, [[-40, 50], [0, 50], [500, 200], [79, 99]])
    assert np.array_equal(match.reference_xy_px[::2], match.reference_xy_px[1::2])


def test_arrays_may_be_read_only():
    arrays = noise(30, 30), noise(30, 30), np.ones((2, 2), np.float32)
    for array in arrays:
        array.flags.writeable = False
    assert patches().match(*arrays).reference_xy_px.shape == (2, 2)


def test_no_points_and_no_pairs():
    matcher = patches()
    match = matcher.match(noise(9, 9), noise(9, 9), [])
    assert match.reference_xy_px.shape == (0, 2)
    assert match.point_confidence.shape == (0,)
    assert match.flow_px is None
    assert match.flow_confidence is None
    assert list(matcher.match_batch([])) == []


def test_answers_are_centres_of_the_grid_that_a_match_says():
    query, reference = noise(40, 40), noise(60, 50, seed=1)
    match = patches(window=0).match(query, reference, [[3, 4], [30, 20]])
    rows, columns = match.answer_grid_hw
    cell = (match.reference_xy_px + 0.5) / [50 / columns, 60 / rows] - 0.5
    assert np.allclose(cell, np.rint(cell), atol=1e-3)
    assert patches().match(query, reference, [[3, 4]]).answer_grid_hw is None


def test_the_flow_is_a_map_through_the_points():
    """At 40 x 40 pixels a pixel is a cell. Noise against noise: the cells' own matches are anywhere."""
    matcher = patches()
    query, reference = noise(40, 40), noise(60, 50, seed=1)
    cells = matcher.match(query, reference, pixel_grid((40, 40)).view(-1, 2))
    scattered_px = cells.reference_xy_px.reshape(40, 40, 2) - pixel_grid((40, 40)).numpy()
    points = np.array([[3, 4], [30, 20], [11, 35]], np.float32)
    match = matcher.match(query, reference, points, dense=True)
    x, y = points.astype(int).T
    assert np.allclose(match.flow_px[y, x] + points, match.reference_xy_px, atol=0.2)
    assert folded_share(match.flow_px) < 0.75 * folded_share(scattered_px)
    assert (match.flow_confidence <= cells.point_confidence.reshape(40, 40) + 1e-6).all()


def test_the_flow_of_a_translation():
    query = noise(320, 320)
    match = patches().match(query, np.roll(query, (0, 32), axis=(0, 1)))
    inner = match.flow_px[40:280, 40:240]
    assert match.flow_px.shape == (320, 320, 2)
    assert match.flow_px.dtype == match.flow_confidence.dtype == np.float32
    assert np.abs(np.median(inner, axis=(0, 1)) - [32, 0]).max() <= 2
    assert folded_share(match.flow_px) == 0


@pytest.mark.parametrize("hw", [(1, 1), (1, 30), (30, 1)])
def test_tiny_images(hw: tuple[int, int]):
    matcher = patches(image_size=64)
    for query, reference in [(noise(*hw), noise(50, 60)), (noise(50, 60), noise(*hw))]:
        match = matcher.match(query, reference, [[0, 0]], dense=True)
        assert match.flow_px.shape == (*query.shape[:2], 2)
        assert match.flow_confidence.shape == query.shape[:2]
        assert np.isfinite(match.flow_px).all()
        x, y = match.reference_xy_px[0]
        assert -0.5 <= x <= reference.shape[1] - 0.5
        assert -0.5 <= y <= reference.shape[0] - 0.5


def test_a_blank_image_has_the_confidence_of_no_mass():
    blank = np.full((50, 60, 3), 99, np.uint8)
    for query, reference in [(blank, blank), (skimage.data.chelsea(), blank), (blank, skimage.data.chelsea())]:
        matcher = load_matcher(SIFT)
        little = matcher.calibration.confidence(np.array([0.02]))
        assert matcher.match(query, reference, [[30, 20]]).point_confidence < little


def test_the_fingerprint_tells_weights_and_options_but_no_device(monkeypatch):
    original = patches().fingerprint
    assert patches().fingerprint == original
    changed = [patches(seed=1), patches(window=0), patches(temperature=0.05), patches(image_size=256)]
    changed.append(patches(precision="bfloat16"))
    assert len({original, *(matcher.fingerprint for matcher in changed)}) == 6
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, *_: module)
    on_gpu = NearestNeighbourMatcher("patches", Backbone("patches", Patches(0), RAW), torch.device("cuda"))
    assert on_gpu.fingerprint == original


def test_options_that_will_not_do():
    with pytest.raises(ValueError, match="window must be a share of the image's sides from 0 to 0"):
        patches(window=0.6)
    with pytest.raises(ValueError, match="temperature must be 0"):
        patches(temperature=0)
    with pytest.raises(ValueError, match="image_size must be 32 to 1024; got 4"):
        patches(image_size=4)
    with pytest.raises(ValueError, match="fit must be one of squash, letterbox; got 'crop'"):
        patches(fit="crop")
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16; got 'half'"):
        patches(precision="half")
    for option in ("layers=1", "precision=bfloat16"):
        fault = rf"dense-sift\?{option}: {option.partition('=')[0]} is for networks: leave it out"
        with pytest.raises(ValueError, match=fault):
            load_matcher(f"{SIFT}?{option}", device="cpu")


def test_a_network_of_one_size_says_how_to_choose_it():
    class Fixed(nn.Module):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            if image.shape[2] != 224:
                raise AssertionError("Input height (320) doesn't match model (224).")
            return [image]

    backbone = Backbone("fixed", Fixed(), RAW)
    with pytest.raises(ValueError, match=r"cannot take images of 320 x 320 .*\(224\).*choose its image_size"):
        NearestNeighbourMatcher("fixed", backbone, torch.device("cpu"))
    assert NearestNeighbourMatcher("fixed", backbone, torch.device("cpu"), image_size=224).levels == [0]


def test_the_deepest_map_that_is_fine_enough_is_taken():
    class Pyramid(nn.Module):
        def __init__(self, *strides: int) -> None:
            super().__init__()
            self.strides = strides

        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [nn.functional.avg_pool2d(image, stride) for stride in self.strides]

    def matcher(*strides: int) -> NearestNeighbourMatcher:
        return NearestNeighbourMatcher("pyramid", Backbone("pyramid", Pyramid(*strides), RAW), torch.device("cpu"))

    assert matcher(4, 8, 16, 32).levels == [2]
    assert matcher(14, 14, 14).levels == [2]
    assert matcher(64, 32).levels == [1]


VITS = {
    8: "vit_small_patch8_224",
    14: "vit_small_patch14_dinov2",
    16: "vit_tiny_patch16_224",
    32: "vit_small_patch32_224",
}
SMALL_VIT: dict[str, Any] = {"depth": 3, "embed_dim": 24, "num_heads": 2}


@pytest.fixture
def vit(write_weights: Callable[..., Path]) -> Callable[..., NearestNeighbourMatcher]:
    """The matcher of a small vision transformer with random weights."""

    def load(name: str, options: str = "") -> NearestNeighbourMatcher:
        torch.manual_seed(4)
        path = write_weights(timm.create_model(name, **SMALL_VIT).state_dict(), {"create_kwargs": SMALL_VIT})
        matcher = load_matcher(f"nearest-neighbour:timm/{name}{options}", backbone_weights=str(path), device="cpu")
        assert isinstance(matcher, NearestNeighbourMatcher)
        return matcher

    return load


@pytest.mark.parametrize(
    ("patch", "size"), [(8, 168), (8, 320), (14, 322), (14, 336), (14, 518), (16, 224), (16, 400), (32, 320), (32, 416)]
)
def test_a_bright_square_is_where_the_features_change(
    patch: int, size: int, vit: Callable[..., NearestNeighbourMatcher]
):
    names = [VITS[patch], *(["vit_small_patch14_reg4_dinov2"] if patch == 14 else [])]
    for name in names:
        matcher = vit(name, f"?image_size={size}")
        blank = np.full((size, size, 3), 90, np.uint8)
        for column, row in [(1, 2), (size // patch - 2, 3), (4, size // patch - 1)]:
            square = blank.copy()
            square[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = 255
            change = (matcher.encode(square) - matcher.encode(blank)).norm(dim=0)
            # of cells as far from the centre of the square as each other, the mean
            y, x = (np.argwhere(change.numpy() > 0.9 * change.max().item()).mean(axis=0) + 0.5) * size / len(change)
            assert abs(x - (column + 0.5) * patch) <= patch / 2
            assert abs(y - (row + 0.5) * patch) <= patch / 2


@pytest.mark.parametrize(("patch", "size"), [(8, 320), (14, 322), (16, 320), (32, 320)])
def test_the_default_size_is_a_multiple_of_the_patch(
    patch: int, size: int, vit: Callable[..., NearestNeighbourMatcher]
):
    matcher = vit(VITS[patch])
    assert matcher.image_size == size
    assert matcher.cells_hw == (40, 40)
    assert matcher.fingerprint == vit(VITS[patch], f"?image_size={size}").fingerprint
    match = matcher.match(noise(40, 50), noise(60, 30), [[3, 4]], dense=True)
    assert np.isfinite(match.reference_xy_px).all()
    assert np.isfinite(match.flow_px).all()


@pytest.mark.parametrize(
    ("patch", "asked", "size"), [(14, 320, 322), (14, 1023, 1022), (14, 33, 42), (32, 345, 352), (16, 100, 96)]
)
def test_sizes_that_patches_do_not_tile_are_rounded_and_said(
    patch: int, asked: int, size: int, vit: Callable[..., NearestNeighbourMatcher], caplog: pytest.LogCaptureFixture
):
    matcher = vit(VITS[patch], f"?image_size={asked}")
    assert matcher.image_size == size
    assert f"image_size {asked} becomes {size}, a multiple of {patch}" in caplog.records[-1].getMessage()
    assert matcher.fingerprint == vit(VITS[patch], f"?image_size={size}").fingerprint


def test_layers_are_read_at_unit_length_one_after_the_other(vit: Callable[..., NearestNeighbourMatcher]):
    image = noise(40, 60)
    first, last, both = (vit(VITS[16], f"?image_size=64&layers={layers}") for layers in ("0", "2", "0,2"))
    expected = torch.cat([first.encode(image), last.encode(image)]) / 2**0.5
    assert torch.allclose(both.encode(image), expected, atol=1e-6)
    assert torch.equal(vit(VITS[16], "?image_size=64").encode(image), last.encode(image))
    assert len({matcher.fingerprint for matcher in (first, last, both)}) == 3
    with pytest.raises(ValueError, match=r"cannot be built with .*\[9\]"):
        vit(VITS[16], "?layers=9")


def test_the_final_norm_is_that_of_the_network(vit: Callable[..., NearestNeighbourMatcher]):
    """A layer norm of random weights 1 and 0 takes off the mean of the channels."""
    plain, normed = vit(VITS[16], "?image_size=64"), vit(VITS[16], "?image_size=64&norm=true")
    assert plain.fingerprint != normed.fingerprint
    features = plain.encode(noise(40, 60))
    rows = [next(matcher._maps([noise(64, 64)]))[0][-1] for matcher in (plain, normed)]
    assert torch.allclose(nn.functional.layer_norm(rows[0].movedim(1, -1), (24,)).movedim(-1, 1), rows[1], atol=1e-4)
    assert not torch.allclose(features, normed.encode(noise(40, 60)), atol=1e-3)
    with pytest.raises(ValueError, match=r"norm is for plain vision transformers"):
        build_backbone("timm/resnet10t", BackboneConfig(create_kwargs={"norm": True}, mean=(0, 0, 0), std=(1, 1, 1)))


def test_a_letterboxed_image_keeps_its_sides_and_has_no_cells_in_the_margin():
    seen = []

    def network(image: torch.Tensor) -> list[torch.Tensor]:
        seen.append(image)
        rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
        return [torch.stack([columns, rows, torch.ones(64, 64)])[None]]

    matcher = planted(network, replace(RAW, mean=(0.5, 0.5, 0.5)), image_size=64, fit="letterbox")
    x, y, one = matcher.encode(np.full((50, 100, 3), 255, np.uint8))
    assert torch.equal(seen[-1][0, 0] > 0.25, (torch.arange(64) - 31.5).abs()[:, None].expand(64, 64) < 16)
    assert torch.allclose(x / one, (torch.arange(8) * 8 + 3.5).expand(8, 8), atol=1e-4)
    assert torch.allclose(y / one, (torch.arange(8) * 4 + 17.5)[:, None].expand(8, 8), atol=1e-4)


def test_a_network_takes_the_size_it_was_built_for(write_weights: Callable[..., Path]):
    name, arguments = VITS[14], SMALL_VIT | {"dynamic_img_size": False, "img_size": 70}
    path = str(write_weights(timm.create_model(name, **arguments).state_dict(), {"create_kwargs": arguments}))
    matcher = load_matcher(f"nearest-neighbour:timm/{name}?image_size=70", backbone_weights=path, device="cpu")
    assert matcher.match(noise(9, 9), noise(9, 9), [[3, 4]]).reference_xy_px.shape == (1, 2)


def test_a_network_of_one_size_names_it_and_those_that_take_others(write_weights: Callable[..., Path]):
    name = "cait_xxs24_224"
    path = str(write_weights(timm.create_model(name).state_dict()))
    with pytest.raises(ValueError, match=r"320 x 320 .* image_size, 224, or a network .* DINOv2, EVA, BEiT"):
        load_matcher(f"nearest-neighbour:timm/{name}?image_size=320", backbone_weights=path, device="cpu")
    matcher = load_matcher(f"nearest-neighbour:timm/{name}?image_size=224", backbone_weights=path, device="cpu")
    assert matcher.match(noise(9, 9), noise(9, 9), [[3, 4]]).reference_xy_px.shape == (1, 2)
    assert matcher.fingerprint == load_matcher(f"nearest-neighbour:timm/{name}", backbone_weights=path).fingerprint


@pytest.mark.filterwarnings("ignore::UserWarning:timm")
def test_tables_of_positions_are_resized_as_timm_does(write_weights: Callable[..., Path]):
    name, small = "beit_base_patch16_224", {"depth": 3, "embed_dim": 24, "num_heads": 2}
    torch.manual_seed(5)
    tensors = timm.create_model(name, **small).state_dict()
    for block in range(3):
        nn.init.normal_(tensors[f"blocks.{block}.attn.relative_position_bias_table"])
    library = timm.create_model(name, img_size=96, features_only=True, **small).eval()
    library.model.load_state_dict(
        timm.models.beit.checkpoint_filter_fn(dict(tensors), timm.create_model(name, img_size=96, **small)),
        strict=False,
    )
    path = str(write_weights(tensors, {"create_kwargs": small}))
    matcher = load_matcher(f"nearest-neighbour:timm/{name}?image_size=100", backbone_weights=path, device="cpu")
    image = torch.rand(1, 3, 96, 96)
    assert matcher.image_size == 96
    with torch.inference_mode():
        assert torch.equal(matcher.backbone(image)[-1], library(image)[-1])


def test_real_weights_whole_and_halved_give_the_features_of_those_cut_out(shared: Path, write_weights: Any):
    """The whole model is stored in float16, and its first blocks a second time in float32."""
    folder, name = shared / "weights", "vit_tiny_patch16_224"
    whole, cut = load_file(folder / f"{name}.safetensors"), load_file(folder / f"{name}-features.safetensors")
    rounded = {key: cut[key].to(whole[key.removeprefix("model.")].dtype) for key in cut}
    config = (folder / f"{name}.json").read_text()
    paths = [folder / f"{name}.safetensors", write_weights(rounded, config), folder / f"{name}-features.safetensors"]
    features = [
        load_matcher(f"nearest-neighbour:timm/{name}", backbone_weights=str(path), device="cpu").encode(
            skimage.data.astronaut()
        )
        for path in paths
    ]
    assert torch.equal(features[0], features[1])
    assert (features[0] * features[2]).sum(dim=0).min() > 0.999


@pytest.mark.parametrize("name", ["tf_efficientnet_lite2", "mobilenetv1_100"])
def test_real_weights_that_end_at_a_stage(shared: Path, name: str):
    path = str(shared / "weights" / f"{name}.safetensors")
    image = skimage.data.astronaut()
    matcher = load_matcher(f"nearest-neighbour:timm/{name}", backbone_weights=path, device="cpu")
    assert matcher.match(image, image, [[200, 100]]).reference_xy_px == pytest.approx(np.array([[200, 100]]), abs=8)


def test_fingerprints_of_matchers_stay(shared: Path):
    weights = str(shared / "weights" / "mobilenetv1_100.safetensors")
    assert load_matcher(MOBILENET, backbone_weights=weights, device="cpu").fingerprint == "19fe569f5830cd65"
    assert load_matcher(SIFT, device="cpu").fingerprint == "1d0d1029c551c368"


def test_the_measured_pck_on_real_pairs(shared: Path):
    """Every 40th of the 3,104 real SPair-71k pairs, source to target, PCK@.1 of the target's box, mean over pairs."""
    root = shared / "data" / "SPair-71k"
    weights = shared / "weights" / "mobilenetv1_100.safetensors"
    annotations = [json.loads(path.read_text()) for path in sorted((root / "PairAnnotation/test").glob("*.json"))[::40]]
    names = {(a["category"], a[side]) for a in annotations for side in ("src_imname", "trg_imname")}
    images = {
        name: np.asarray(Image.open(root / "JPEGImages" / name[0] / name[1]).convert("RGB")) for name in sorted(names)
    }
    pairs = [
        ImagePair(
            query_rgb=images[a["category"], a["src_imname"]],
            reference_rgb=images[a["category"], a["trg_imname"]],
            query_xy_px=np.array(a["src_kps"], np.float32),
        )
        for a in annotations
    ]
    matcher = load_matcher(f"{MOBILENET}?window=0", backbone_weights=str(weights), device="cpu")
    matches = matcher.match_batch(pairs)
    pck = []
    for annotation, match in zip(annotations, matches, strict=True):
        left, top, right, bottom = annotation["trg_bndbox"]
        error_px = np.linalg.norm(match.reference_xy_px - np.array(annotation["trg_kps"]), axis=1)
        pck.append(100 * np.mean(error_px <= 0.1 * max(right - left, bottom - top)))
    assert len(pck) == 78
    assert np.mean(pck) == pytest.approx(24.75, abs=0.5)  # by a script of its own
