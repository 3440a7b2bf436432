"""Losses of labels that may be wrong, such as those that a matcher gave."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def noisy_loss(
    log_likelihood: Float[Tensor, " m"], probability: Float[Tensor, " m"], n_candidates: int
) -> Float[Tensor, ""]:
    """The weighted mean of -log(p q + (1 - p) / n): a label is right with probability p, and any of n candidates
    otherwise.

    log_likelihood: log q of each label, as the network has it. probability: p, above 0 and at most 1, which is also the
    label's weight. Where all are 1 this is the mean of -log q.
    """
    p = probability.to(log_likelihood.dtype)
    right, wrong = p.log() + log_likelihood, (1 - p).log() - math.log(n_candidates)
    return weighted_mean(-torch.logaddexp(right, wrong), p)


def weighted_mean(values: Float[Tensor, " m"], weight: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """The mean of the values, each as often as its weight says."""
    return (values * weight).sum() / weight.sum()
