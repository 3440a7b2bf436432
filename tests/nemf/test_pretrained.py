"""The networks that ship: complete, small, with their terms, and better than the matchers without weights."""

import logging
import math

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from nemf import load_matcher, pretrained
from nemf.flow_map import folded_share
from nemf.matcher import Matcher
from nemf.matchers import pair_field
from nemf.training.augment import AugmentConfig, recoloured
from nemf.training.example import Example
from nemf.training.geometry import AffineRange
from nemf.training.rng import generator_of
from nemf.training.warps import WarpConfig, warped_pair

BEND = WarpConfig(affine=AffineRange(rotation_deg=30.0, scale=1.3, shear=0.3, shift=0.1), bend=0.7)
LIGHT = AugmentConfig(brightness=0.5, contrast=0.5, saturation=1.0, hue=0.5)


@pytest.mark.parametrize("name", pretrained.NAMES)
def test_it_is_whole_and_small_and_says_where_it_comes_from(name: str):
    folder = pretrained.folder(name)
    files = {file.name: file.stat().st_size for file in folder.iterdir()}
    assert files.keys() == {"calibration.json", "config.json", "model.safetensors", "README.md"}
    assert sum(files.values()) <= 8 * 10**6
    card = (folder / "README.md").read_text()
    assert "research use" in card
    assert "| spair |" in card
    assert load_matcher(name, device="cpu").name == name


def test_its_terms_are_said_once(caplog: pytest.LogCaptureFixture):
    pretrained._log_terms.cache_clear()
    with caplog.at_level(logging.WARNING, logger="nemf"):
        for _ in range(2):
            pretrained.folder("nemf-small")
    assert len(caplog.records) == 1
    assert "research use" in caplog.text


def planted(number: int) -> Example:
    """A cat, and the same cat bent, turned and in another light."""
    photograph = np.asarray(Image.fromarray(skimage.data.chelsea()).resize((300, 200)))
    example = warped_pair(photograph, 20, generator_of("planted", number), BEND)
    query_rgb = recoloured(example.query.rgb, generator_of("light", number), LIGHT)
    return Example(reference=example.reference, query=type(example.query)(rgb=query_rgb, xy_px=example.query.xy_px))


def pck(matcher: Matcher, examples: list[Example], alpha: float = 0.1) -> float:
    """Percentage of the target's points matched in the source within alpha of its longer side."""
    correct = []
    for example in examples:
        match = matcher.match(example.query.rgb, example.reference.rgb, example.query.xy_px)
        error_px = np.linalg.norm(match.reference_xy_px - example.reference.xy_px, axis=1)
        correct.append(error_px <= alpha * max(example.reference.hw))
    return 100 * float(np.mean(np.concatenate(correct)))


def test_it_beats_the_matchers_without_weights_on_planted_warps():
    torch.manual_seed(0)
    examples = [planted(number) for number in range(6)]
    ours = pck(load_matcher("nemf-small", device="cpu"), examples)
    others = {
        name: pck(load_matcher(name, device="cpu"), examples) for name in ("nearest-neighbour:dense-sift", "identity")
    }
    assert ours > max(others.values())


def test_its_points_are_those_of_scoring_every_place(monkeypatch: pytest.MonkeyPatch):
    """The field is scored where the correlation is greatest; nothing is lost by leaving out the rest."""
    matcher = load_matcher("nemf-small", device="cpu")
    pairs = [planted(number) for number in range(3)]

    def answers_px() -> np.ndarray:
        return np.concatenate(
            [matcher.match(p.query.rgb, p.reference.rgb, p.query.xy_px).reference_xy_px for p in pairs]
        )

    few_px = answers_px()
    monkeypatch.setattr(pair_field, "PLACES", math.prod(pair_field.MASS_MAP_HW))
    moved_px = np.linalg.norm(few_px - answers_px(), axis=1)
    assert np.mean(moved_px > 0.5) < 0.02, moved_px


def test_its_flow_finds_an_image_and_its_mirror_image():
    query = np.ascontiguousarray(skimage.data.chelsea()[::2, ::2])
    mirrored = np.ascontiguousarray(query[:, ::-1])
    x = np.arange(query.shape[1])
    matcher = load_matcher("nemf-small", device="cpu")
    for reference, true_x in ((query, x), (mirrored, query.shape[1] - 1 - x)):
        flow_px = matcher.match(query, reference, dense=True).flow_px
        error_px = np.hypot(x + flow_px[..., 0] - true_x, flow_px[..., 1])
        assert np.quantile(error_px, 0.9) < 5
        assert folded_share(flow_px) == 0
