"""Every line of the recipes of large vision transformers, in miniature: a small ViT, 64 px, two steps."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from make import encoded, noise_rgb, pair_row, write_pairs
from safetensors.torch import load_file, save_file

from jobs import prepare, train
from jobs.command import as_json
from jobs.recipes.stages import RecipeOptions
from jobs.recipes.table import RECIPES
from nemf import checkpoints, load_matcher
from nemf.matchers.decoded import DecodedMatcher
from nemf.model.presets import PRESETS, NeMFConfig
from pipeline.training.folder import open_training, read_history
from pipeline.training.worker import WorkerContext
from pipeline.training.worker import train as train_here

ALONE = WorkerContext(rank=0, n_workers=1, device=torch.device("cpu"))
SMALL = {"depth": 3, "embed_dim": 24, "num_heads": 2}


def write_weights(name: str, folder: Path) -> Path:
    """Random weights of a small network of timm, as a whole model is published."""
    torch.manual_seed(0)
    path = folder / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in timm.create_model(name, **SMALL).state_dict().items()}, path)
    path.with_suffix(".json").write_text(json.dumps({"create_kwargs": SMALL}))
    return path


def run_in_miniature(
    recipe: str, backbone: str, layers: tuple[int, ...], image_size: int, weights: Path, tmp_path: Path
) -> tuple[NeMFConfig, Path]:
    """Train the recipe's network behind a smaller backbone: its configuration, and the checkpoint."""
    options = RecipeOptions(data=tmp_path, out=tmp_path / "out", weights=str(weights), threads=1, bfloat16=False)
    *prepared, stage = RECIPES[recipe](options)
    assert [each.dataset for each in prepared if isinstance(each, prepare.Config)] == ["spair", "spair"]
    assert isinstance(stage, train.Config)
    stage.check()
    assert {*stage.pairs, stage.validation} == {each.out for each in prepared}
    image = encoded(noise_rgb(0, (48, 64)))
    box = {f"{side}_box_xyxy": [0.0, 0.0, 63.0, 47.0] for side in ("source", "target")}
    pairs = write_pairs(tmp_path / "pairs.parquet", [pair_row("p", source_image=image, target_image=image) | box])
    preset = PRESETS[stage.start]()
    small = replace(
        preset,
        backbone=f"timm/{backbone}",
        backbone_config=replace(preset.backbone_config, out_indices=layers),
        image_size=image_size,
        feature_size=image_size // (14 if "patch14" in backbone else 16),
        neck_channels=16,
        decoder_channels=8,
    )
    stage = replace(
        stage,
        pairs=(pairs,),
        validation=pairs,
        trainer=replace(stage.trainer, steps=2, warmup_steps=1, lora_rank=2),
        batch_size=2,
        log_every=1,
        validate_every=2,
    )
    open_training(stage.out, {"settings": as_json(stage), "inputs": {}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, stage.start, lambda: small)
        train_here(stage, ALONE, lambda _: None, lambda: False)
    history = read_history(stage.out)
    assert np.isfinite([row["descriptor"] for row in history["training"]]).all()
    assert history["validation"][-1]["n_failed"] == 0
    return small, Path(stage.out) / "checkpoint"


@pytest.mark.parametrize(
    ("recipe", "backbone", "image_size"),
    [("nemf-dinov2-base", "vit_small_patch14_dinov2", 56), ("nemf-dinov3-base", "vit_small_patch16_dinov3", 64)],
)
def test_a_recipe_in_miniature_with_random_weights(recipe: str, backbone: str, image_size: int, tmp_path: Path):
    weights = write_weights(backbone, tmp_path)
    small, checkpoint = run_in_miniature(recipe, backbone, (1, 2), image_size, weights, tmp_path)

    model, config = checkpoints.load(checkpoint), checkpoints.read_config(checkpoint)
    assert (config.image_size, config.decoder_channels) == (small.image_size, 8)
    before = {f"model.{name}": tensor for name, tensor in load_file(weights).items()}
    after = model.backbone.network.state_dict()
    changed = {name.rpartition("attn.")[1] for name in after if not torch.equal(after[name], before[name])}
    assert changed == {"attn."}  # LoRA's updates are in the weights of the attention, and nothing else has moved

    matcher = load_matcher(f"descriptors:{checkpoint}", device="cpu")
    assert isinstance(matcher, DecodedMatcher)
    assert matcher.score_hw == (16, 16)
    image = noise_rgb(0, (48, 64))
    match = matcher.match(image, image, [[10, 20], [40.5, 30]])
    assert match.reference_xy_px.shape == (2, 2)
    assert np.isfinite(match.reference_xy_px).all()


def test_a_recipe_in_miniature_with_the_weights_of_a_small_vision_transformer(shared: Path, tmp_path: Path):
    """On a picture and itself most points are found: the features are those of the trained network."""
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    _, checkpoint = run_in_miniature("nemf-dinov3-base", "vit_tiny_patch16_224", (5, 7), 96, weights, tmp_path)
    image = noise_rgb(0, (48, 64))
    points = np.array([[10, 20], [40, 30], [55, 8], [20, 40]], np.float32)
    match = load_matcher(f"descriptors:{checkpoint}", device="cpu").match(image, image, points)
    assert np.median(np.linalg.norm(match.reference_xy_px - points, axis=1)) < 6.4  # a tenth of the longer side


@pytest.mark.parametrize("name", ["nemf-dinov2-base", "nemf-dinov3-base"])
def test_the_whole_network_has_sizes_that_fit(name: str):
    """Of its real size, on the meta device."""
    config = PRESETS[name]()
    tensors = checkpoints.check_sizes(config)
    assert config.image_size == 896
    assert tensors["decoder.code.weight"].shape == (256, 384, 1, 1)
    assert sum(tensor.numel() for name, tensor in tensors.items() if name.startswith("backbone.")) > 8e7
