"""The answer to a query point from scores of places all over the reference: the place with most round it, then finer.

A single score is noise: repeated parts and edges make many high ones. The softmax of the scores over a small window is
what the field has there in all. Chosen on Animal-Pose's validation pairs; PatchMatch with its refinement finds the
field's highest score, at less PCK there and more time.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

_WINDOW = 3
"""Side of the window, in cells or steps."""
_STEPS = 3
"""Number of steps, of half a cell each, that are scored on every side of the best cell."""
_MEAN_STEPS = 2
"""The answer is the mean of the places so many steps round the best one, weighted by their softmax."""

Scores = Callable[[Float[Tensor, "k n 2"]], Float[Tensor, "k n"]]
"""The scores of n places (x, y) of k points, in cells: (0, 0) is the centre of the first cell."""


def best_cells(scores: Float[Tensor, "k h w"]) -> Int64[Tensor, "k 2"]:
    """Column and row of the cell with most softmax in the window round it; beyond the map there is none."""
    k, h, w = scores.shape
    index = _window_sums(scores.flatten(1).softmax(dim=1).view(k, h, w)).flatten(1).argmax(dim=1)
    return torch.stack([index % w, index // w], dim=1)


def finer_answers(
    cells_xy: Int64[Tensor, "k 2"], score: Scores, low_xy: Float[Tensor, " 2"], high_xy: Float[Tensor, " 2"]
) -> Float[Tensor, "k 2"]:
    """The answers (x, y), in cells, near the cells; score is called once, with (2 steps + 1)^2 places a point.

    low_xy, high_xy: the image's first and last places, in cells; places beyond them are not answers.
    """
    side = 2 * _STEPS + 1
    steps = torch.arange(side, device=cells_xy.device) - _STEPS
    step_xy = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1).view(1, -1, 2)
    places_xy = cells_xy[:, None] + step_xy / 2
    inside = ((places_xy >= low_xy) & (places_xy <= high_xy)).all(dim=-1)
    inside = inside | ~inside.any(dim=1, keepdim=True)  # an image of a few pixels may have no place among them
    scores = score(places_xy.maximum(low_xy).minimum(high_xy)).masked_fill(~inside, -torch.inf)
    share = scores.softmax(dim=1)
    sums = _window_sums(share.view(-1, side, side)).flatten(1).masked_fill(~inside, -1)
    best_xy = step_xy[0, sums.argmax(dim=1)]
    near = ((step_xy - best_xy[:, None]).abs() <= _MEAN_STEPS).all(dim=-1)
    weight = share * near
    answers_xy = (weight[..., None] * places_xy).sum(dim=1) / weight.sum(dim=1, keepdim=True)
    return answers_xy.maximum(low_xy).minimum(high_xy)


def _window_sums(share: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
    """The sum over the window round each place."""
    return F.avg_pool2d(share[:, None], _WINDOW, stride=1, padding=_WINDOW // 2, divisor_override=1)[:, 0]
