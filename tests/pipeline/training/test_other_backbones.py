"""Every system behind backbones of other families: two steps, and the matcher of what they wrote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from make import encoded, noise_rgb, pair_row, write_pairs
from safetensors.torch import save_file

from jobs import train
from jobs.command import as_json
from nemf import Matcher, checkpoints, load_matcher
from nemf.lpmflow.presets import PRESETS as LPMFLOW_PRESETS
from nemf.lpmflow.presets import small as lpmflow_small
from nemf.matcher import ImagePair
from nemf.training.config import LossConfig, TrainerConfig
from pipeline.training.folder import open_training, read_history
from pipeline.training.worker import WorkerContext
from pipeline.training.worker import train as train_here

ALONE = WorkerContext(rank=0, n_workers=1, device=torch.device("cpu"))
BACKBONES: dict[str, dict[str, Any]] = {
    "vit_small_patch14_dinov2": {"depth": 3, "embed_dim": 24, "num_heads": 2},
    "swin_tiny_patch4_window7_224": {"embed_dim": 12},
    "resnet10t": {"layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16]},
}
TINY_LPMFLOW = replace(
    lpmflow_small(), cells=4, dim=32, depth=1, heads=2, context_channels=8, windows=(8,), upsampler_blocks=1
)
STARTS = ("nemf-mobilenet", "pmnc-small", "lpmflow-small")
SIZES = {"vit_small_patch14_dinov2": (70, 5), "swin_tiny_patch4_window7_224": (64, 8), "resnet10t": (64, 8)}
"""Side of the images and of the maps where 64 pixels are asked for."""
HW = (48, 64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """The checkpoints of two steps, by backbone and start."""
    folder = tmp_path_factory.mktemp("trained")
    image = encoded(noise_rgb(0, HW))
    box = {f"{side}_box_xyxy": [0.0, 0.0, 63.0, 47.0] for side in ("source", "target")}
    pairs = write_pairs(folder / "pairs.parquet", [pair_row("p", source_image=image, target_image=image) | box])
    checkpoints_of = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LPMFLOW_PRESETS, "lpmflow-small", lambda: TINY_LPMFLOW)
        for name, create_kwargs in BACKBONES.items():
            torch.manual_seed(0)
            weights = folder / f"{name}.safetensors"
            tensors = timm.create_model(name, **create_kwargs).state_dict()
            save_file({key: value.contiguous() for key, value in tensors.items()}, weights)
            weights.with_suffix(".json").write_text(json.dumps({"create_kwargs": create_kwargs}))
            for start in STARTS:
                out = folder / name / start
                checkpoints_of[name, start] = _two_steps(start, f"timm/{name}", weights, pairs, out)
    return checkpoints_of


def _two_steps(start: str, backbone: str, weights: Path, pairs: str, out: Path) -> Path:
    is_nemf = start == "nemf-mobilenet"
    config = train.Config(
        pairs=(pairs,),
        out=str(out),
        start=start,
        backbone=backbone,
        backbone_weights=str(weights),
        image_size=None if start == "lpmflow-small" else 64,
        trainer=TrainerConfig(steps=2, lr=1e-3, loss=LossConfig(descriptor_weight=1.0) if is_nemf else LossConfig()),
        batch_size=2,
        log_every=1,
    )
    config.check()
    open_training(config.out, {"settings": as_json(config), "inputs": {}})
    train_here(config, ALONE, lambda _: None, lambda: False)
    assert np.isfinite([row["total"] for row in read_history(config.out)["training"]]).all()
    return out / "checkpoint"


def _answers(matcher: Matcher, pairs: list[ImagePair]) -> list[np.ndarray]:
    return [match.reference_xy_px for match in matcher.match_batch(pairs)]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_was_written_answers_alike_in_any_batch_and_order(
    backbone: str, start: str, trained: dict[tuple[str, str], Path]
):
    points = np.array([[10, 20], [40.5, 30], [63, 0]], np.float32)
    images = [noise_rgb(seed, HW) for seed in range(3)]
    pairs = [
        ImagePair(query_rgb=images[i], reference_rgb=images[j], query_xy_px=points[: 1 + i])
        for i, j in ((0, 1), (1, 2), (2, 0))
    ]
    matcher = load_matcher(str(trained[backbone, start]), device="cpu")

    together = _answers(matcher, pairs)

    turned = _answers(matcher, pairs[::-1])[::-1]
    alone = [_answers(matcher, [pair])[0] for pair in pairs]
    for answers in (turned, alone):
        assert all(np.array_equal(*both) for both in zip(answers, together, strict=True))
    assert all(np.isfinite(answer).all() for answer in together)


def test_a_checkpoint_has_the_backbone_and_the_sizes_that_it_needs(trained: dict[tuple[str, str], Path]):
    for (backbone, start), checkpoint in trained.items():
        config = checkpoints.read_config(checkpoint)
        assert config.backbone == f"timm/{backbone}"
        assert config.backbone_config.create_kwargs == BACKBONES[backbone]
        if start != "lpmflow-small":
            assert (config.image_size, config.feature_size) == SIZES[backbone]


def test_fingerprints_differ_by_backbone_and_start(trained: dict[tuple[str, str], Path]):
    fingerprints = {load_matcher(str(checkpoint), device="cpu").fingerprint for checkpoint in trained.values()}
    assert len(fingerprints) == len(BACKBONES) * len(STARTS)
