"""The descriptor loss: each keypoint must match its counterparts by the feature maps alone, before any cost volume.

The feature maps of an image serve its pairs with all other images of the batch: B examples make up to 2B (2B - 1).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from nemf.model.correlation import normalise
from nemf.model.quadrilinear import corners
from nemf.training.label_noise import noisy_loss

TEMPERATURE = 0.05
"""Softmax temperature."""


def descriptor_loss(
    features: Float[Tensor, "n c h w"],
    image: Int64[Tensor, " m"],
    xy_norm: Float[Tensor, "m 2"],
    keypoint: Int64[Tensor, " m"],
    probability: Float[Tensor, " m"],
) -> Float[Tensor, ""]:
    """Cross-entropy of matching each keypoint to those of the same number in other images; the weighted mean over all
    matches.

    It is that of softmax(cosine / TEMPERATURE) over the cells of the other image against the four cells around the
    true point, weighted bilinearly. The centres of the outermost cells lie on the image's edges (align-corners), as the
    neck and the field have it, and as nearest neighbours read trained descriptors.

    features: maps of n images.
    image: index of the image that each of m keypoints is in, 0 <= image < n.
    xy_norm: normalised (x, y) of each keypoint, within [-1, 1].
    keypoint: number of each keypoint. At least one number must occur in two images.
    probability: of each keypoint to be right, above 0 and at most 1; a match's is the lesser one of its two keypoints.
    """
    hw = features.shape[2], features.shape[3]
    maps = normalise(features.float())
    cell, weight = corners(xy_norm, hw)
    cells = maps.flatten(2)
    at_corners = cells.transpose(1, 2)[image[:, None], cell]
    descriptor = F.normalize((at_corners * weight[..., None]).sum(dim=1), dim=-1)
    query, match = ((keypoint[:, None] == keypoint) & (image[:, None] != image)).nonzero(as_tuple=True)
    assert len(query)
    with torch.autocast(features.device.type, enabled=False):  # the temperature magnifies rounding twenty times
        cosine = torch.einsum("mc,nch->mnh", descriptor, cells)
    log_likelihood = torch.log_softmax(cosine / TEMPERATURE, dim=-1)
    truth = log_likelihood[query[:, None], image[match][:, None], cell[match]]
    of_match = torch.minimum(probability[query], probability[match])
    return noisy_loss((truth * weight[match]).sum(dim=1), of_match, n_candidates=hw[0] * hw[1])
