from dataclasses import replace

import numpy as np
import pytest
import torch
from official_nemf import SMALL, official_shapes, official_state_dict

from nemf.checkpoints import from_official_state_dict
from nemf.matchers.nemf import NemfMatcher
from nemf.training.batch import ImageFormat, collate
from nemf.training.example import Example, View
from nemf.training.rng import generator_of
from nemf.training.warps import WarpConfig, warped_pair

FORMAT = ImageFormat(image_size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))


def view(hw: tuple[int, int], points_px: list[list[float]], seed: int = 0) -> View:
    rgb = np.random.default_rng(seed).integers(0, 256, (*hw, 3), dtype=np.uint8)
    return View(rgb=rgb, xy_px=np.array(points_px, np.float32).reshape(-1, 2))


def test_images_are_what_the_matcher_feeds_its_network():
    model = from_official_state_dict(official_state_dict(official_shapes(**SMALL), seed=3), 2)
    matcher = NemfMatcher("nemf", model, torch.device("cpu"))
    rgb = view((37, 53), []).rgb
    assert torch.equal(ImageFormat.from_model(model).squash(rgb), matcher._squash(rgb))


def test_squashing_by_hand():
    """The corners' pixels stay at the corners."""
    rgb = view((37, 53), []).rgb
    squashed = FORMAT.squash(rgb)
    assert squashed.shape == (3, 32, 32)
    corner = (rgb[36, 52] / 255 - FORMAT.mean) / FORMAT.std
    assert np.allclose(squashed[:, 31, 31], corner, atol=1e-4)


def test_points_of_all_examples_stand_in_one_list():
    first = Example(reference=view((11, 21), [[0, 0], [20, 5]]), query=view((5, 9), [[8, 4], [4, 2]], 1))
    second = Example(reference=view((3, 3), [[1, 2]], 2), query=view((41, 81), [[60, 10]], 3))
    batch = collate([first, second], FORMAT)
    assert batch.reference.shape == batch.query.shape == (2, 3, 32, 32)
    assert batch.pair.tolist() == [0, 0, 1]
    assert batch.reference_xy_norm.tolist() == [[-1, -1], [1, 0], [0, 1]]
    assert batch.query_xy_norm.tolist() == [[1, 1], [0, 0], [0.5, -0.5]]
    assert torch.equal(batch.query[1], FORMAT.squash(second.query.rgb))


def test_matches_without_a_probability_are_sure():
    doubtful = Example(
        reference=view((8, 8), [[1, 2], [9, 9], [3, 3]]),
        query=view((8, 8), [[7, 7], [1, 1], [2, 2]]),
        probability=np.array([0.5, 0.6, 0.7], np.float32),
    )
    sure = Example(reference=view((8, 8), [[1, 2]]), query=view((8, 8), [[7, 7]]))
    batch = collate([doubtful.drop_outside_points(), sure], FORMAT)
    assert batch.probability.tolist() == pytest.approx([0.5, 0.7, 1])
    for wrong in ([0.0], [1.5], [0.5, 0.5]):
        with pytest.raises(ValueError, match="probabilit"):
            replace(sure, probability=np.array(wrong, np.float32))


def test_points_that_no_loss_can_take():
    fits = Example(reference=view((8, 8), [[1, 2]]), query=view((8, 8), [[7, 7]]))
    outside = Example(reference=view((8, 8), [[1, 2], [3, 3]]), query=view((8, 8), [[7, 7.5], [0, 0]]))
    with pytest.raises(ValueError, match="example 1 of the batch has 1 of 2 points outside its images"):
        collate([fits, outside], FORMAT)
    assert collate([fits, outside.drop_outside_points()], FORMAT).pair.tolist() == [0, 1]
    empty = Example(reference=view((8, 8), []), query=view((8, 8), []))
    with pytest.raises(ValueError, match="example 0 of the batch has no points"):
        collate([empty], FORMAT)


def example(category: str, names: tuple[str, ...] | None, n_points: int = 2) -> Example:
    points_px = [[number, number] for number in range(n_points)]
    return Example(
        reference=view((8, 8), points_px), query=view((9, 9), points_px), keypoint_id=names, category=category
    )


def test_points_of_one_name_and_category_have_one_number():
    examples = [
        example("cat", ("left_eye", "nose")),
        example("cat", ("nose", "tail")),
        example("dog", ("nose", "left_eye")),
        example("", ("nose", "tail")),
        example("", ("tail", "nose")),
    ]
    assert collate(examples, FORMAT).keypoint.tolist() == [0, 1, 1, 2, 3, 4, 5, 6, 6, 5]


def test_points_without_a_name_of_their_own_match_in_their_pair_only():
    """Points of warped photographs have no names; names that are used twice in one example count as none."""
    warped = warped_pair(view((40, 50), []).rgb, 3, generator_of("warp"), WarpConfig())
    examples = [example("cat", None), example("cat", ("paw", "paw")), example("cat", ("paw", "nose")), warped]
    assert collate(examples, FORMAT).keypoint.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
