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
    """C (C / max_reference C) (C / max_query C) for each value C: it stays large only where both cells are best."""
    return mutually_filtered(correlation, correlation.amax(dim=2, keepdim=True), correlation.amax(dim=3, keepdim=True))


def mutually_filtered(correlation: Tensor, best_reference: Tensor, best_query: Tensor) -> Tensor:
    """C (C / best_reference) (C / best_query), the greatest values being given; they broadcast."""
    to_reference = correlation / torch.where(best_reference == 0, 1e-30, best_reference)
    to_query = correlation / torch.where(best_query == 0, 1e-30, best_query)
    return correlation * (to_reference * to_query)
