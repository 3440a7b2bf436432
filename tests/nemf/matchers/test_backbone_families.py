"""One small model of every family of backbones, with random weights: features lie where the image has what they see.

A bright square on a grey image is looked for in the change of the features. Strided convolutions with padding see up to
half a cell to one side, so the mirrored image is looked at too, and the mean of both places is compared.
"""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from nemf.matchers.nearest_neighbour import NearestNeighbourMatcher
from nemf.model import timm_backbones
from nemf.model.backbone import build_backbone

VIT: dict[str, Any] = {"depth": 3, "embed_dim": 48, "num_heads": 3}
TIMM: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": VIT,
    "vit_small_patch14_dinov2.lvd142m": VIT,
    "vit_small_patch14_reg4_dinov2": VIT,
    "vit_small_patch16_dinov3": VIT,
    "vit_base_patch16_siglip_224": VIT,
    "vit_base_patch16_clip_224": VIT,
    "vit_base_patch32_clip_224": VIT,
    "eva02_tiny_patch14_224": VIT,
    "beit_base_patch16_224": VIT,
    "deit3_small_patch16_224": VIT,
    "samvit_base_patch16_224": VIT | {"global_attn_indexes": ()},
    "swin_tiny_patch4_window7_224": {"embed_dim": 24},
    "swinv2_tiny_window8_256": {"embed_dim": 24},
    "convnext_atto": {},
    "hiera_small_abswin_256": {"embed_dim": 24},
    "sam2_hiera_tiny": {"embed_dim": 24},
    "maxvit_rmlp_pico_rw_256": {"depths": (1, 1, 1, 1)},
    "coatnet_nano_rw_224": {"depths": (1, 1, 1, 1)},
    "fastvit_t8": {},
    "efficientvit_b0": {},
    "resnet10t": {},
}
NOT_IN_BFLOAT16 = {"hiera_small_abswin_256"}
"""It resizes its table of positions in a way that PyTorch has in float32 only."""
SIZES = (128, 192)
IMAGES_HW = ((60, 96), (96, 48))
CENTRE_XY = (0.3, 0.6)
"""That of the square, as shares of the image's sides."""


def _matcher(name: str, image_size: int, precision: str = "float32") -> NearestNeighbourMatcher:
    torch.manual_seed(0)
    config = timm_backbones.default_config(name)
    create_kwargs = timm_backbones.sized(name, TIMM[name], image_size)
    backbone = build_backbone(f"timm/{name}", replace(config, create_kwargs=create_kwargs))
    return NearestNeighbourMatcher(name, backbone, torch.device("cpu"), image_size=image_size, precision=precision)


def _place(matcher: NearestNeighbourMatcher, blank: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The mean (x, y) of where the features change most, as shares of the image's sides."""
    change = (matcher.encode(image) - matcher.encode(blank)).norm(dim=0).numpy()
    weight = np.clip(change / change.max() - 0.5, 0, None)
    rows, columns = np.indices(change.shape) + 0.5
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum() / change.shape[::-1]


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("name", TIMM)
def test_features_lie_where_the_image_has_what_they_see(name: str, image_size: int):
    matcher = _matcher(name, image_size)
    assert abs(matcher.image_size - image_size) <= 16
    for fit, image_hw in itertools.product(("squash", "letterbox"), IMAGES_HW):
        matcher.fit = fit
        hw = np.array(image_hw)
        seen_hw = np.full(2, matcher.image_size) if fit == "squash" else hw * matcher.image_size / hw.max()
        cell = matcher.cell_size / seen_hw[::-1]
        first, last = (np.rint((CENTRE_XY + side * cell) * hw[::-1]).astype(int) for side in (-0.5, 0.5))
        blank = np.full((*image_hw, 3), 90, np.uint8)
        image = blank.copy()
        image[first[1] : last[1], first[0] : last[0]] = 255
        turned = np.ascontiguousarray(image[::-1, ::-1])
        place = (_place(matcher, blank, image) + 1 - _place(matcher, blank, turned)) / 2
        error = (place - (first + last) / 2 / hw[::-1]) / cell
        assert np.abs(error).max() <= 0.5, (fit, image_hw, error)


@pytest.mark.parametrize("name", sorted(TIMM.keys() - NOT_IN_BFLOAT16))
def test_features_in_bfloat16_are_the_same_but_for_rounding(name: str):
    image = np.random.default_rng(0).integers(0, 256, (60, 96, 3), dtype=np.uint8)
    ours, theirs = (_matcher(name, SIZES[0], precision).encode(image) for precision in ("bfloat16", "float32"))
    assert ours.dtype == torch.float32
    cosine = (ours * theirs).sum(dim=0)
    assert 0.99 < cosine.min() < 1


@pytest.mark.parametrize("name", sorted(NOT_IN_BFLOAT16))
def test_a_network_that_has_no_bfloat16_says_so(name: str):
    with pytest.raises(ValueError, match=f"timm/{name} cannot compute in bfloat16 .*: leave precision=bfloat16 out"):
        _matcher(name, SIZES[0], "bfloat16")
