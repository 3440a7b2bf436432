"""Correlation of two feature maps: every reference cell with every query cell."""

import torch
from jaxtyping import Float
from torch import Tensor


def normalise(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Features of (nearly) unit length at every cell; a cell without any feature stays zero."""
    return features / (features.square().sum(dim=1, keepdim=True) + 1e-6).sqrt()


def correlate(
    reference: Float[Tensor, "b c hr wr"], query: Float[Tensor, "b c hq wq"]
) -> Float[Tensor, "b 1 hr wr hq wq"]:
    """The cosine of every reference cell with every query cell, as a 4D volume of one channel."""
    return torch.einsum("bcij,bckl->bijkl", normalise(reference), normalise(query))[:, None]


def soft_mutual_nearest_neighbour(
    correlation: Float[Tensor, "b n reference query"],
) -> Float[Tensor, "b n reference query"]:
    """C (C / max_reference C) (C / max_query C) for each value C: it stays large only where both cells are best.

    correlation: overwritten where no gradient flows through it.
    """
    best_reference, best_query = correlation.amax(dim=2, keepdim=True), correlation.amax(dim=3, keepdim=True)
    # in place: writing to new memory takes several times as long
    cubed = correlation.pow(3) if correlation.requires_grad else correlation.pow_(3)
    return cubed.div_(_not_zero(best_reference)).div_(_not_zero(best_query))


def mutually_filtered(correlation: Tensor, best_reference: Tensor, best_query: Tensor) -> Tensor:
    """C (C / best_reference) (C / best_query), the greatest values being given; they broadcast."""
    return correlation * (correlation / _not_zero(best_reference) * (correlation / _not_zero(best_query)))


def _not_zero(values: Tensor) -> Tensor:
    return torch.where(values == 0, 1e-30, values)
