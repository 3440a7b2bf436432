"""Pooling of feature maps: one vector for an image, to find images that look alike."""

import torch
from jaxtyping import Float
from torch import Tensor

_POWER = 3.0


def generalised_mean(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c"]:
    """The cube root of the mean cube of each channel over all cells, negative values counted as 0.

    Between mean (power 1) and maximum (power infinity): Radenovic, Tolias and Chum, Fine-tuning CNN Image Retrieval
    with No Human Annotation, 2018, who also start from 3. The result is not normalised.
    """
    return torch.clamp(features, min=0).pow(_POWER).mean(dim=(2, 3)).pow(1 / _POWER)
