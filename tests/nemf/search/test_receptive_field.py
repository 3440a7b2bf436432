import torch

from nemf.search.receptive_field import steps_to_points


def test_steps_to_points_are_the_distances_by_hand():
    points_px = torch.tensor([[[1.0, 0.0], [3.5, 2.0]]])
    expected = [
        [1, 0, 1, 2, 2],
        [2, 1, 2, 1, 1],
        [3, 2, 1, 0, 0],
    ]
    assert steps_to_points(points_px, (3, 5), max_steps=3)[0].tolist() == expected
    assert steps_to_points(points_px, (3, 5), max_steps=1)[0, 2].tolist() == [2, 2, 1, 0, 0]
