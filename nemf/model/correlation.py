"""Correlation of two feature maps: every source cell with every target cell."""

import torch
from jaxtyping import Float
from torch import Tensor


def normalise(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Features of (nearly) unit length at every cell; a cell without any feature stays zero."""
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()


def correlate(
    source: Float[Tensor, "b c hs ws"], target: Float[Tensor, "b c ht wt"]
) -> Float[Tensor, "b 1 hs ws ht wt"]:
    """The cosine of every source cell with every target cell, as a 4D volume of one channel."""
    return torch.einsum("bcij,bckl->bijkl", normalise(source), normalise(target))[:, None]


def soft_mutual_nearest_neighbour(
    correlation: Float[Tensor, "b n source target"],
) -> Float[Tensor, "b n source target"]:
    """Each value C lowered to C (C / max_source C) (C / max_target C): kept only where both cells prefer each other."""
    best_source = correlation.amax(dim=2, keepdim=True)
    best_target = correlation.amax(dim=3, keepdim=True)
    to_source = correlation / torch.where(best_source == 0, 1e-30, best_source)
    to_target = correlation / torch.where(best_target == 0, 1e-30, best_target)
    return correlation * (to_source * to_target)
