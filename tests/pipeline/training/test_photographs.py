from pathlib import Path

import numpy as np
import torch
from make import encoded, noise_rgb, pair_row, write_pairs

from pipeline.training.photographs import Photographs

HW = (24, 32)


def photographs(folder: Path, seed: int = 0) -> Photographs:
    """Images from black to white: two in one manifest, two in another, which also has a row whose images are
    missing."""
    manifests = []
    for number, shades in enumerate(([0, 80], [160, 240])):
        (source, target) = (encoded(np.full((*HW, 3), shade, np.uint8)) for shade in shades)
        rows = [{"pair_id": "p", "source_image": source, "target_image": target}]
        if number:
            rows.insert(0, {"pair_id": "lost", "source_uri": "lost.png", "target_uri": "lost.png"})
        manifests.append(write_pairs(folder / f"{number}.parquet", rows))
    return Photographs(manifests, str(folder), 16, seed)


def test_a_batch_is_a_function_of_seed_and_step(tmp_path: Path):
    rows = [pair_row("p", source_image=encoded(noise_rgb(0)), target_image=encoded(noise_rgb(1)))]
    manifest = write_pairs(tmp_path / "noise.parquet", rows)

    def batch(seed: int, step: int, *steps_before: int) -> torch.Tensor:
        images = Photographs([manifest], None, 16, seed)
        for before in steps_before:
            images.batch(before, 2)
        return images.batch(step, 2)

    images = batch(0, 5)
    assert images.shape == (2, 3, 16, 16)
    assert -0.2 < images.min() < images.max() < 1.2
    assert torch.equal(images, batch(0, 5, 4, 2, 7))
    assert not torch.equal(images, batch(0, 6))
    assert not torch.equal(images, batch(1, 5))


def test_both_images_of_all_rows_are_seen_and_what_is_lost_is_told(tmp_path: Path):
    images = photographs(tmp_path)

    means = torch.cat([images.batch(step, 20) for step in range(5)]).mean(dim=(1, 2, 3))

    assert means.min() < 0.01  # black stays black, and white needs a bright photograph
    assert means.max() > 0.9
    assert [(Path(row["pairs"]).name, row["pair_id"]) for row in images.unusable()] == [("1.parquet", "lost")]
