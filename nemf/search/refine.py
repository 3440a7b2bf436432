"""Coordinate optimisation: from where the search ended, uphill along the score's gradient (eq. 8 of the paper)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nemf.search.score import BoundScoreFn

_FINAL_LR = 1e-6


@torch.inference_mode(False)
def refine(
    score: BoundScoreFn,
    start_xy_norm: Float[Tensor, "b n 2"],
    steps: int = 20,  # the paper says 10; 20 is what the published code runs
    lr: float = 3e-4,
    radius_norm: float = 0.1,
    *,
    mean_over_points: bool = False,
) -> Float[Tensor, "b n 2"]:
    """Source points after some steps of AdamW on -log sigmoid(score), at most `radius_norm` from the start in x and y.

    The rate falls from `lr` to 1e-6 along half a cosine, the first rate being used twice. Every point is optimised as
    if it were alone, so the answer does not depend on the others.

    score: logits of source points whose target points are bound, see BoundScoreFn. What autograd keeps for all points
        of the call is its own business: TargetScorer keeps nothing.
    mean_over_points: minimise the mean over all points, as published. Adam's epsilon then makes the steps shorter
        the more points there are; for parity with published results only.
    Raises ValueError for numbers out of range.
    """
    if steps < 0 or not lr > 0 or not radius_norm > 0:
        raise ValueError(f"steps must be at least 0, lr and radius_norm above 0; got {steps}, {lr}, {radius_norm}")
    low, high = start_xy_norm - radius_norm, start_xy_norm + radius_norm
    xy_norm = start_xy_norm.detach().clone().requires_grad_()
    optimiser = torch.optim.AdamW([xy_norm], lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate(max(step - 1, 0), steps, lr)
        with torch.enable_grad():
            losses = -F.logsigmoid(score(xy_norm))
            loss = losses.mean() if mean_over_points else losses.sum()
        (xy_norm.grad,) = torch.autograd.grad(loss, xy_norm)
        optimiser.step()
        with torch.no_grad():
            xy_norm.copy_(xy_norm.maximum(low).minimum(high))
    return xy_norm.detach()


def rate(step: int, steps: int, lr: float) -> float:
    """The learning rate after `step` of `steps` steps, between `lr` and 1e-6."""
    return _FINAL_LR + (lr - _FINAL_LR) * (1 + math.cos(math.pi * step / steps)) / 2
