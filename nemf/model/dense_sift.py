"""Dense SIFT as a backbone: one map of classical descriptors; no weights, nothing to download."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from kornia.color import rgb_to_grayscale
from kornia.feature import DenseSIFTDescriptor
from torch import Tensor, nn

from nemf.model.backbone import Backbone
from nemf.model.backbone_config import BackboneConfig

STRIDE_PX = 4
BIN_SIZES_PX = (8, 16)
"""A descriptor looks at 4 x 4 bins: small bins localise it, large ones distinguish it from similar ones."""


class DenseSift(nn.Module):
    """SIFT at two scales for every STRIDE_PX x STRIDE_PX cell of the image.

    As in RootSIFT (Arandjelovic & Zisserman, 2012) the entries are square roots of shares; their mean is taken off,
    so that unrelated cells have a cosine near 0. A cell without any contrast has a descriptor of zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            DenseSIFTDescriptor(
                spatial_bin_size=bin_px,
                stride=STRIDE_PX,
                padding=3 * bin_px // 2 - STRIDE_PX // 2,  # puts the descriptors on the centres of the cells
                rootsift=False,  # kornia's adds an epsilon, which makes cells without contrast alike
            )
            for bin_px in BIN_SIZES_PX
        )

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b 256 h_cells w_cells"]]:
        """The one map of RGB images in [0, 1] whose sides are multiples of STRIDE_PX."""
        grey = rgb_to_grayscale(image)
        roots = [F.normalize(scale(grey), p=1, dim=1).sqrt() for scale in self.scales]
        return [torch.cat([root - root.mean(dim=1, keepdim=True) for root in roots], dim=1)]


def dense_sift() -> Backbone:
    """The backbone called 'dense-sift'; it takes images as they are, in [0, 1]."""
    return Backbone("dense-sift", DenseSift(), BackboneConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
