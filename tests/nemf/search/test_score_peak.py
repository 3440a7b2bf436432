"""The answer to a point from scores of places all over the reference."""

import math

import pytest
import torch

from nemf.search.score_peak import best_cells, finer_answers

LOW, HIGH = torch.tensor([-0.4, -0.4]), torch.tensor([31.4, 31.4])


def test_a_broad_peak_comes_before_a_higher_single_score():
    scores = torch.full((2, 6, 8), -5.0)
    scores[0, 1, 6] = 3.0
    scores[0, 3:6, 1:4] = 2.0
    scores[1, 0, 7] = 4.0
    assert best_cells(scores).tolist() == [[2, 4], [6, 1]]  # a single one is in several windows


def around(centre_xy: tuple[float, float], scale: float):
    """Scores that fall with the squared distance from a place, and the places that were asked for."""
    asked: list[torch.Tensor] = []

    def score(places_xy: torch.Tensor) -> torch.Tensor:
        asked.append(places_xy)
        return -scale * ((places_xy - torch.tensor(centre_xy)) ** 2).sum(dim=-1)

    return score, asked


def test_the_answer_is_finer_than_a_cell():
    score, asked = around((10.3, 7.8), 4.0)
    answer = finer_answers(torch.tensor([[10, 8]]), score, LOW, HIGH)
    assert answer[0].tolist() == pytest.approx([10.3, 7.8], abs=0.02)
    (places,) = asked
    assert places.shape == (1, 49, 2)
    assert places[0].amin(dim=0).tolist() == [8.5, 6.5]
    assert places[0].amax(dim=0).tolist() == [11.5, 9.5]


def test_far_scores_have_no_part_in_the_mean():
    def score(places_xy: torch.Tensor) -> torch.Tensor:
        far = places_xy[..., 0] == 11.5
        near = (places_xy - torch.tensor([9.0, 8.0])).abs().amax(dim=-1) <= 0.5
        return torch.where(near, 1.0, torch.where(far, 0.9, -20.0))

    answer = finer_answers(torch.tensor([[10, 8]]), score, LOW, HIGH)
    assert answer[0].tolist() == pytest.approx([9, 8], abs=1e-6)


def test_places_beyond_the_image_are_no_answers():
    score, asked = around((-3.0, 31.9), 1.0)
    answer = finer_answers(torch.tensor([[0, 31]]), score, LOW, HIGH)
    x, y = answer[0].tolist()
    assert -0.4 <= x <= 0.5
    assert 30.5 <= y <= 31.4
    assert (asked[0] >= LOW).all()
    assert (asked[0] <= HIGH).all()
    assert math.isfinite(x + y)


def test_a_points_answer_does_not_depend_on_the_others():
    score, _ = around((10.3, 7.8), 4.0)
    cells = torch.tensor([[10, 8], [11, 7], [0, 0]])
    together = finer_answers(cells, score, LOW, HIGH)
    alone = torch.cat([finer_answers(cell[None], score, LOW, HIGH) for cell in cells])
    assert torch.equal(together, alone)
