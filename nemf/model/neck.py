"""A neck: turns a backbone's feature maps into descriptors that are trained to match.

The published network correlates the maps of a frozen ImageNet network as they are. Trained descriptors distinguish a
left leg from a right one, for which the maps of a small network see too little of the image.
"""

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

_DILATIONS = (1, 2, 4)


class Neck(nn.Module):
    """Context from the deepest map, added to the shallower ones (after feature pyramids, Lin et al. 2017).

    level_channels: channels of the backbone's maps, shallow to deep.
    channels: of the map that comes out, which has the size of the shallowest that goes in.
    n_blocks: residual blocks at the deepest map, whose dilations cycle through 1, 2, 4.
    """

    def __init__(self, level_channels: Sequence[int], channels: int, n_blocks: int) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(nn.Conv2d(before, channels, 1) for before in level_channels)
        dilations = itertools.islice(itertools.cycle(_DILATIONS), n_blocks)
        self.context = nn.Sequential(*(Bottleneck(channels, dilation) for dilation in dilations))
        self.outputs = nn.ModuleList(Bottleneck(channels, dilation=1) for _ in level_channels[1:])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (b, c_l, h_l, w_l), shallow to deep, to a list of one map (b, channels, h_0, w_0)."""
        *shallower, deepest = [take(level) for take, level in zip(self.inputs, maps, strict=True)]
        features = self.context(deepest)
        for level, output in zip(reversed(shallower), self.outputs, strict=True):
            above = F.interpolate(features, level.shape[2:], mode="bilinear", align_corners=True)
            features = output(level + above)
        return [features]


class Bottleneck(nn.Module):
    """A residual block of half the channels inside; it changes nothing at first, so it needs no normalisation."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        inner = channels // 2
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.look_around = nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation)
        self.expand = nn.Conv2d(inner, channels, 1)
        for parameter in self.expand.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """(b, channels, h, w) to the same shape."""
        inner = F.relu(self.reduce(F.relu(features)))
        return features + self.expand(F.relu(self.look_around(inner)))
