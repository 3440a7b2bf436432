"""Coordinate optimisation: gradient ascent on the score from the result of PatchMatch (equation 8 of the paper)."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nemf.model.light_loading import without_compiler
from nemf.search.config import check_settings
from nemf.search.score import BoundScoreFn

_FINAL_LR = 1e-6


@without_compiler()
@torch.inference_mode(False)
def refine(
    score: BoundScoreFn,
    start_xy_norm: Float[Tensor, "b n 2"],
    steps: int = 20,  # the paper says 10; 20 is what the published code runs
    lr: float = 3e-4,
    radius_norm: float = 0.1,
) -> Float[Tensor, "b n 2"]:
    """Reference points after `steps` steps of AdamW on -log sigmoid(score), at most `radius_norm` from the start.

    The rate falls from `lr` to 1e-6 along half a cosine; the first two steps use the first rate. The radius bounds x
    and y each. The loss is the sum over all points, so that each is optimised independently; the published code takes
    the mean, which lets Adam's epsilon shorten the steps the more points there are.

    score: logits of reference points at fixed query points, differentiable.
    Raises ValueError for numbers that nemf.search.config.SearchConfig does not allow.
    """
    check_settings(refine_steps=steps, refine_lr=lr, radius_norm=radius_norm)
    low, high = start_xy_norm - radius_norm, start_xy_norm + radius_norm
    xy_norm = start_xy_norm.detach().clone().requires_grad_()
    optimiser = torch.optim.AdamW([xy_norm], lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = rate(max(step - 1, 0), steps, lr)
        with torch.enable_grad():
            loss = -F.logsigmoid(score(xy_norm)).sum()
        (xy_norm.grad,) = torch.autograd.grad(loss, xy_norm)
        optimiser.step()
        with torch.no_grad():
            xy_norm.copy_(xy_norm.maximum(low).minimum(high))
    return xy_norm.detach()


def rate(step: int, steps: int, lr: float) -> float:
    """The learning rate after `step` of `steps` steps, between `lr` and 1e-6."""
    return _FINAL_LR + (lr - _FINAL_LR) * (1 + math.cos(math.pi * step / steps)) / 2
