"""What each process of a training run does, beside what tests/jobs/test_train_job.py sees from without."""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make import encoded, noise_rgb, pair_row, write_pairs
from safetensors.torch import save_file
from tiny import TINY

from jobs.command import as_json
from jobs.train import Config
from nemf import checkpoints
from nemf.model.backbone import build_backbone
from nemf.model.build import build
from nemf.model.network import NeMF
from nemf.model.presets import PRESETS, NeMFConfig, with_cost_features
from nemf.training.example import Example
from nemf.training.losses import LossConfig
from nemf.training.sampler import Pick
from pipeline.training.folder import open_training, read_history
from pipeline.training.worker import Examples, TrainingConfig, WorkerContext, initial_network, train

HW = (24, 32)
DESCRIPTOR = LossConfig(field_weight=0.0, flow_weight=0.0, descriptor_weight=1.0)
ALONE = WorkerContext(rank=0, n_workers=1, device=torch.device("cpu"))


@pytest.fixture
def run(tmp_path: Path) -> TrainingConfig:
    """Of one pair, all its pixels 0; two manifests of photographs are beside it, of 100 and 200."""
    pairs = pair_row("p", **_images(0))
    keypoints = {"source_xy_px": None, "target_xy_px": None}
    for shade in (100, 200):
        write_pairs(tmp_path / f"{shade}.parquet", [{"pair_id": "one", **_images(shade), **keypoints}])
    torch.manual_seed(0)
    checkpoints.save(tmp_path / "start", build(TINY), TINY)
    config = Config(
        pairs=(write_pairs(tmp_path / "pairs.parquet", [pairs]),),
        out=str(tmp_path / "run"),
        start=str(tmp_path / "start"),
        steps=2,
        batch_size=2,
        negatives=3,
        augment=False,
        log_every=1,
        validate_every=1,
    )
    open_training(config.out, {"settings": as_json(config), "inputs": {}})
    return config.training


def _images(shade: int) -> dict[str, bytes]:
    image = encoded(np.full((*HW, 3), shade, np.uint8))
    return {"source_image": image, "target_image": image}


def _examples(run: TrainingConfig) -> list[Example]:
    examples = Examples(run)
    return [examples.example(Pick(0, 0), step, 0) for step in range(60)]


def test_photographs_are_warped_as_often_as_was_said(run: TrainingConfig, tmp_path: Path):
    manifests = (str(tmp_path / "100.parquet"), str(tmp_path / "200.parquet"))

    examples = _examples(replace(run, photographs=manifests, warp_share=0.5))

    seen = Counter(int(example.reference.rgb[0, 0, 0]) for example in examples)
    assert set(seen) == {0, 100, 200}
    assert 20 <= seen[0] <= 40
    assert min(seen[100], seen[200]) >= 5
    for example in examples:
        warped = example.reference.rgb[0, 0, 0] > 0
        assert len(example) == (16 if warped else 3)
        assert (example.category == "") == bool(warped)


def test_without_photographs_the_pairs_images_are_warped(run: TrainingConfig):
    examples = _examples(replace(run, warp_share=1.0))

    assert {int(example.reference.rgb.max()) for example in examples} == {0}
    assert {len(example) for example in examples} == {16}


def test_photographs_of_pairs_without_keypoints_are_enough(run: TrainingConfig, tmp_path: Path):
    """Where examples are warped photographs only, nothing is unusable in a manifest without keypoints."""
    bare = replace(run, pairs=(str(tmp_path / "100.parquet"),), warp_share=1.0)
    examples = Examples(bare)
    assert examples.example(Pick(0, 0), 0, 0).reference.rgb[0, 0, 0] == 100
    assert examples.unusable() == []

    examples = Examples(replace(bare, warp_share=0.0))
    with pytest.raises(ValueError, match=r"1 rows one after the other cannot be used, such as one: it has no keypoint"):
        examples.example(Pick(0, 0), 0, 0)


LOSSES = [
    (LossConfig(negatives=3), {"field", "flow"}),
    (LossConfig(flow_weight=0.0, negatives=3), {"field"}),
    (LossConfig(field_weight=0.0), {"flow"}),
    (DESCRIPTOR, {"descriptor"}),
    (LossConfig(negatives=3, descriptor_weight=0.5), {"field", "flow", "descriptor"}),
]


@pytest.mark.parametrize(("loss", "names"), LOSSES)
def test_the_history_tells_the_losses_that_are_trained(run: TrainingConfig, loss: LossConfig, names: set[str]):
    reported: list[dict[str, Any]] = []

    train(replace(run, trainer=replace(run.trainer, loss=loss)), ALONE, reported.append, lambda: False)

    history = read_history(run.out)
    assert [row["step"] for row in history["training"]] == [1, 2]
    for row in history["training"]:
        assert set(row) == {"step", "total", "gradient_norm", "lr", "seconds_per_step", *names}
    assert (history["validation"], history["unusable"]) == ([], [])
    assert reported == [{"step": 0}, *history["training"]]
    assert (Path(run.out) / "curves.png").stat().st_size > 1000
    (events,) = (Path(run.out) / "tensorboard").iterdir()
    assert events.stat().st_size > 0


def test_until_a_field_is_trained_descriptors_are_validated(run: TrainingConfig, monkeypatch: pytest.MonkeyPatch):
    """On a picture and itself even untrained ones find most points."""
    row = pair_row("p", source_image=encoded(noise_rgb(0, HW)), target_image=encoded(noise_rgb(0, HW)))
    boxes = {f"{side}_box_xyxy": [0.0, 0.0, 31.0, 23.0] for side in ("source", "target")}
    manifest = write_pairs(Path(run.out).parent / "same.parquet", [row | boxes])
    loss = replace(run.trainer, steps=1, lr=1e-6, loss=DESCRIPTOR)

    def refuse(*_arguments: object) -> None:
        raise AssertionError("the field is not trained")

    monkeypatch.setattr("pipeline.training.worker.NemfMatcher", refuse)
    train(replace(run, validation=manifest, trainer=loss), ALONE, lambda _: None, lambda: False)

    (validation,) = read_history(run.out)["validation"]
    assert set(validation) == {"step", "pck@0.05", "pck@0.1", "n_pairs", "n_failed", "seconds"}
    assert validation["pck@0.1"] > 50
    assert checkpoints.read_config(f"{run.out}/checkpoint") == TINY


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Those of a preset's backbone, in a file that names other maps than the preset."""
    monkeypatch.setitem(PRESETS, "tiny", lambda: TINY)
    torch.manual_seed(1)
    every_map = replace(TINY.backbone_config, out_indices=(0, 1, 2, 3))
    network = build_backbone(TINY.backbone, every_map).network
    file = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), file)
    described = {"model": TINY.backbone.removeprefix("timm/"), **asdict(every_map)}
    file.with_suffix(".json").write_text(json.dumps(described))
    return str(file)


def _same(ours: torch.nn.Module, theirs: torch.nn.Module) -> bool:
    tensors = theirs.state_dict()
    return all(torch.equal(tensor, tensors[name]) for name, tensor in ours.state_dict().items())


def _gives_maps(model: NeMF, config: NeMFConfig) -> bool:
    with torch.no_grad():
        encoded = model.encode(*torch.zeros(2, 1, 3, config.image_size, config.image_size))
    return bool(encoded.cost_features.isfinite().all())


def test_a_preset_starts_with_the_backbone_of_the_file_and_the_maps_of_its_own(weights: str):
    model, config = initial_network("tiny", weights, None, None, seed=0)
    again, _ = initial_network("tiny", weights, None, None, seed=0)
    other, _ = initial_network("tiny", weights, None, None, seed=1)

    assert config == TINY
    assert _gives_maps(model, config)
    assert _same(model, again)
    assert _same(model.backbone, other.backbone)
    assert not _same(model.field, other.field)
    assert not model.cost_encoder.aggregator.proj.weight.any()


def test_a_checkpoint_of_another_kind_gives_its_backbone_and_neck(run: TrainingConfig, tmp_path: Path):
    given = checkpoints.load(run.start)

    same, config = initial_network(run.start, None, None, None, seed=5)
    raw, raw_config = initial_network(run.start, None, "raw", None, seed=5)
    checkpoints.save(tmp_path / "raw", raw, raw_config)
    of_its_kind, _ = initial_network(str(tmp_path / "raw"), None, "raw", None, seed=6)

    assert config == TINY
    assert _same(same, given)
    assert _same(of_its_kind, raw)
    assert raw_config == with_cost_features(TINY, "raw")
    assert _gives_maps(raw, raw_config)
    assert _same(raw.backbone, given.backbone)
    assert _same(raw.neck, given.neck)
    assert not _same(raw.field.blocks, given.field.blocks)


def test_a_checkpoint_gives_its_backbone_and_neck_to_a_network_for_larger_images(run: TrainingConfig):
    given = checkpoints.load(run.start)

    larger, config = initial_network(run.start, None, None, 2 * TINY.image_size, seed=5)

    assert config == replace(TINY, image_size=2 * TINY.image_size, feature_size=2 * TINY.feature_size)
    assert _gives_maps(larger, config)
    assert _same(larger.backbone, given.backbone)
    assert _same(larger.neck, given.neck)
