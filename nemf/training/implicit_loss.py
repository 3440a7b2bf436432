"""The loss of descriptors at any coordinate: each keypoint must match its counterparts on their images' decoded grids.

The maps of an image serve its pairs with all other images of the batch, as in nemf.training.descriptor_loss.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from nemf.coordinates import norm_to_px, rescale_px
from nemf.model.descriptor_decoder import DENSITY, DescriptorDecoder
from nemf.training.descriptor_loss import TEMPERATURE
from nemf.training.label_noise import noisy_loss

SIGMA_CELLS = (3.0, 1.0)
"""Standard deviation of the Gaussian round the truth at the first step and at the last, in decoded cells."""


def implicit_descriptor_loss(
    decoder: DescriptorDecoder,
    features: Float[Tensor, "n c h w"],
    image_size: int,
    image: Int64[Tensor, " m"],
    xy_norm: Float[Tensor, "m 2"],
    keypoint: Int64[Tensor, " m"],
    probability: Float[Tensor, " m"],
    progress: float,
) -> Float[Tensor, ""]:
    """Cross-entropy of matching each keypoint to those of the same number in other images; the weighted mean.

    It is that of softmax(cosine / TEMPERATURE) of the keypoint's descriptor, decoded where it is, with all decoded
    cells of the other image, against a Gaussian round the true point. Cells tile the network's square images.

    image_size: side of these squares, pixels. progress: share of the training that is done, 0..1.
    The others are those of nemf.training.descriptor_loss.descriptor_loss.
    """
    hw = (features.shape[2], features.shape[3])
    dense_hw = (DENSITY * hw[0], DENSITY * hw[1])
    square_hw = (image_size, image_size)
    xy_px = norm_to_px(xy_norm, square_hw)
    query, match = ((keypoint[:, None] == keypoint) & (image[:, None] != image)).nonzero(as_tuple=True)
    assert len(query)
    with torch.autocast(features.device.type, enabled=False):  # the temperature magnifies rounding twenty times
        features = features.float()
        descriptor = F.normalize(decoder(features, image, rescale_px(xy_px, square_hw, hw)), dim=1)
        grids = F.normalize(decoder.grid(features), dim=1).flatten(2)
        cosine = torch.einsum("mc,nch->mnh", descriptor, grids)
    sigma = SIGMA_CELLS[0] + (SIGMA_CELLS[1] - SIGMA_CELLS[0]) * progress
    truth = gaussian(rescale_px(xy_px, square_hw, dense_hw), dense_hw, sigma)
    log_share = torch.log_softmax(cosine / TEMPERATURE, dim=-1)
    log_likelihood = (log_share[query, image[match]] * truth[match]).sum(dim=1)
    of_match = torch.minimum(probability[query], probability[match])
    return noisy_loss(log_likelihood, of_match, n_candidates=dense_hw[0] * dense_hw[1])


def gaussian(xy_cells: Float[Tensor, "m 2"], hw: tuple[int, int], sigma: float) -> Float[Tensor, "m cells"]:
    """A Gaussian round each point (x, y) on the centres of a grid's cells, row by row, whose values sum to 1."""
    x, y = (torch.arange(side, device=xy_cells.device) for side in (hw[1], hw[0]))
    by_x = torch.softmax(-((x - xy_cells[:, :1]) ** 2) / (2 * sigma**2), dim=1)
    by_y = torch.softmax(-((y - xy_cells[:, 1:]) ** 2) / (2 * sigma**2), dim=1)
    return (by_y[:, :, None] * by_x[:, None]).flatten(1)
