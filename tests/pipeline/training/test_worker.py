"""What each process of a training run does, beside what tests/jobs/test_train_job.py sees from without."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from make import encoded, noise_rgb, pair_row, write_pairs
from tiny import TINY

from jobs.command import as_json
from nemf import checkpoints
from nemf.model.build import build
from nemf.training.config import LossConfig, TrainerConfig
from nemf.training.example import Example
from nemf.training.sampler import Pick
from pipeline.training.config import TrainingConfig
from pipeline.training.folder import open_training, read_history
from pipeline.training.worker import Examples, WorkerContext, train

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
    config = TrainingConfig(
        pairs=(write_pairs(tmp_path / "pairs.parquet", [pairs]),),
        out=str(tmp_path / "run"),
        start=str(tmp_path / "start"),
        trainer=TrainerConfig(steps=2, loss=LossConfig(negatives=3)),
        batch_size=2,
        augment=False,
        log_every=1,
        validate_every=1,
    )
    open_training(config.out, {"settings": as_json(config), "inputs": {}})
    return config


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
