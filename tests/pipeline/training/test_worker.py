"""Training in one process, in addition to the checks in tests/jobs/test_train_job.py."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from make import encoded, noise_rgb, pair_row, write_pairs
from tiny import TINY

from jobs.command import as_json
from nemf import checkpoints
from nemf.model.build import build
from nemf.training.config import LossConfig, TrainerConfig
from pipeline.training.config import TrainingConfig
from pipeline.training.folder import open_training, read_history
from pipeline.training.worker import WorkerContext, train

HW = (24, 32)
DESCRIPTOR = LossConfig(field_weight=0.0, flow_weight=0.0, descriptor_weight=1.0)
ALONE = WorkerContext(rank=0, n_workers=1, device=torch.device("cpu"))


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    """Two steps on one pair; the run folder is open."""
    image = encoded(noise_rgb(0, HW))
    torch.manual_seed(0)
    checkpoints.save(tmp_path / "start", build(TINY), TINY)
    pairs = [pair_row("p", source_image=image, target_image=image)]
    config = TrainingConfig(
        pairs=(write_pairs(tmp_path / "pairs.parquet", pairs),),
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


LOSSES = [
    (LossConfig(negatives=3), {"field", "flow"}),
    (LossConfig(flow_weight=0.0, negatives=3), {"field"}),
    (LossConfig(field_weight=0.0), {"flow"}),
    (DESCRIPTOR, {"descriptor"}),
    (LossConfig(negatives=3, descriptor_weight=0.5), {"field", "flow", "descriptor"}),
]


@pytest.mark.parametrize(("loss", "names"), LOSSES)
def test_the_history_tells_the_losses_that_are_trained(config: TrainingConfig, loss: LossConfig, names: set[str]):
    reported: list[dict[str, Any]] = []

    train(replace(config, trainer=replace(config.trainer, loss=loss)), ALONE, reported.append, lambda: False)

    history = read_history(config.out)
    assert [row["step"] for row in history["training"]] == [1, 2]
    for row in history["training"]:
        assert set(row) == {"step", "total", "gradient_norm", "lr", "seconds_per_step", *names}
    assert (history["validation"], history["unusable"]) == ([], [])
    assert reported == [{"step": 0}, *history["training"]]
    assert (Path(config.out) / "curves.png").stat().st_size > 1000
    (events,) = (Path(config.out) / "tensorboard").iterdir()
    assert events.stat().st_size > 0


def test_until_a_field_is_trained_descriptors_are_validated(config: TrainingConfig, monkeypatch: pytest.MonkeyPatch):
    """On a picture and itself even untrained ones find most points."""
    row = pair_row("p", source_image=encoded(noise_rgb(0, HW)), target_image=encoded(noise_rgb(0, HW)))
    boxes = {f"{side}_box_xyxy": [0.0, 0.0, 31.0, 23.0] for side in ("source", "target")}
    manifest = write_pairs(Path(config.out).parent / "same.parquet", [row | boxes])
    loss = replace(config.trainer, steps=1, lr=1e-6, loss=DESCRIPTOR)

    def refuse(*_arguments: object) -> None:
        raise AssertionError("the field is not trained")

    monkeypatch.setattr("pipeline.training.worker.NemfMatcher", refuse)
    train(replace(config, validation=manifest, trainer=loss), ALONE, lambda _: None, lambda: False)

    (validation,) = read_history(config.out)["validation"]
    assert set(validation) == {"step", "pck@0.05", "pck@0.1", "n_pairs", "n_failed", "seconds"}
    assert validation["pck@0.1"] > 50
    assert checkpoints.read_config(f"{config.out}/checkpoint") == TINY
