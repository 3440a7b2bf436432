"""The examples of a training run."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from make import encoded, pair_row, write_pairs

from nemf.training.batch import ImageFormat
from nemf.training.config import TrainerConfig
from nemf.training.example import Example
from nemf.training.sampler import Pick
from pipeline.training.config import TrainingConfig
from pipeline.training.examples import Examples

HW = (24, 32)


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    """One pair whose pixels are all 0, and two manifests of photographs with pixels 100 and 200."""
    keypoints = {"source_xy_px": None, "target_xy_px": None}
    for shade in (100, 200):
        write_pairs(tmp_path / f"{shade}.parquet", [{"pair_id": "one", **_images(shade), **keypoints}])
    pairs = write_pairs(tmp_path / "pairs.parquet", [pair_row("p", **_images(0))])
    return TrainingConfig(
        pairs=(pairs,), out="run", trainer=TrainerConfig(steps=5), batch_size=4, augment=False, loaders=2
    )


def _images(shade: int) -> dict[str, bytes]:
    image = encoded(np.full((*HW, 3), shade, np.uint8))
    return {"source_image": image, "target_image": image}


def _examples(config: TrainingConfig) -> list[Example]:
    examples = Examples(config)
    return [examples.example(Pick(0, 0), step, 0) for step in range(60)]


def test_photographs_are_warped_as_often_as_warp_share(config: TrainingConfig, tmp_path: Path):
    manifests = (str(tmp_path / "100.parquet"), str(tmp_path / "200.parquet"))

    examples = _examples(replace(config, photographs=manifests, warp_share=0.5))

    seen = Counter(int(example.reference.rgb[0, 0, 0]) for example in examples)
    assert set(seen) == {0, 100, 200}
    assert 20 <= seen[0] <= 40
    assert min(seen[100], seen[200]) >= 5
    for example in examples:
        warped = example.reference.rgb[0, 0, 0] > 0
        assert len(example) == (16 if warped else 3)
        assert (example.category == "") == bool(warped)


def test_without_photographs_the_pairs_images_are_warped(config: TrainingConfig):
    examples = _examples(replace(config, warp_share=1.0))

    assert {int(example.reference.rgb.max()) for example in examples} == {0}
    assert {len(example) for example in examples} == {16}


def test_photographs_of_pairs_without_keypoints_are_enough(config: TrainingConfig, tmp_path: Path):
    """Where examples are warped photographs only, nothing is unusable in a manifest without keypoints."""
    bare = replace(config, pairs=(str(tmp_path / "100.parquet"),), warp_share=1.0)
    examples = Examples(bare)
    assert examples.example(Pick(0, 0), 0, 0).reference.rgb[0, 0, 0] == 100
    assert examples.unusable() == []

    examples = Examples(replace(bare, warp_share=0.0))
    with pytest.raises(ValueError, match=r"1 rows one after the other cannot be used, such as one: it has no keypoint"):
        examples.example(Pick(0, 0), 0, 0)


def test_batches_hold_the_slots_of_one_worker_and_start_at_any_step(config: TrainingConfig):
    """Two workers share the examples of a step; a resumed run sees the batches of the steps that are left."""
    images = ImageFormat(image_size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    examples = Examples(replace(config, warp_share=0.5))
    whole = list(examples.batches(0, range(4), images))
    even, odd = (list(examples.batches(3, range(rank, 4, 2), images)) for rank in (0, 1))

    assert len(whole) == 5
    assert len(even) == len(odd) == 2
    for batch, first, second in zip(whole[3:], even, odd, strict=True):
        assert torch.equal(batch.query[::2], first.query)
        assert torch.equal(batch.query[1::2], second.query)
        assert len(batch.pair) == len(first.pair) + len(second.pair)
