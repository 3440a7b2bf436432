"""From correlations to a flow: soft-argmax of each, then one flow of all of them and the source's tokens."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nemf.coordinates import pixel_grid
from nemf.lpmflow.window import ChannelGate, WindowBlock, as_map
from nemf.model.cost_encoder import soft_argmax

FLOW_CELLS = 4
"""Cells of the flow along a side of a fine cell."""
N_FLOWS = 4

_CONTEXT_DROPOUT = 0.5
_HIDDEN_CHANNELS = 32

Flow = Float[Tensor, "b 2 h w"]


def at_side(correlation: Float[Tensor, "b source target"], side: int) -> Float[Tensor, "b fine_source fine_target"]:
    """The correlation of two square grids brought to `side` cells a side in both, bilinear (align-corners)."""
    n_source, n_target = correlation.shape[1:]
    source_side, target_side = math.isqrt(n_source), math.isqrt(n_target)
    if target_side != side:
        maps = correlation.unflatten(2, (target_side, target_side))
        correlation = F.interpolate(maps, (side, side), mode="bilinear", align_corners=True).flatten(2)
    if source_side != side:
        maps = correlation.transpose(1, 2).unflatten(2, (source_side, source_side))
        correlation = F.interpolate(maps, (side, side), mode="bilinear", align_corners=True).flatten(2).transpose(1, 2)
    return correlation


def flow_of(
    correlation: Float[Tensor, "b source target"], x_norm: Float[Tensor, " w"], y_norm: Float[Tensor, " h"]
) -> Flow:
    """The displacement (x, y) of every source cell to where its correlation points, in cells.

    The mean place of the target cells, weighted by the softmax of correlation / 0.02; x_norm, y_norm are the normalised
    coordinates of their columns and rows.
    """
    hw = (len(y_norm), len(x_norm))
    place_norm = soft_argmax(correlation.transpose(1, 2), x_norm, y_norm)
    last = place_norm.new_tensor([hw[1] - 1, hw[0] - 1]).view(2, 1, 1)
    return (place_norm + 1) / 2 * last - pixel_grid(hw).to(place_norm).permute(2, 0, 1)


class FlowIntegration(nn.Module):
    """What to add to the finest of four flows, from all of them and the tokens of the source image.

    windows: sides of the windows, in cells of the flow, of the blocks that are applied one after the other and summed.
    """

    def __init__(self, dim: int, context_channels: int, windows: tuple[int, ...], heads: int) -> None:
        super().__init__()
        channels = 2 * N_FLOWS + context_channels
        self.context = nn.Conv2d(dim, context_channels, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(WindowBlock(channels, window, heads), ChannelGate(channels)) for window in windows
        )
        self.conv1 = nn.Conv2d(channels, _HIDDEN_CHANNELS, 3, padding=1)
        self.conv2 = nn.Conv2d(_HIDDEN_CHANNELS, 2, 3, padding=1)

    def forward(self, flows: list[Flow], source: Float[Tensor, "b token dim"]) -> Flow:
        """The flow, in the cells of the flows.

        flows: of the coarse and fine cells of source and target: coarse to coarse, coarse to fine, fine to coarse,
            fine to fine.
        """
        context = F.relu(self.context(as_map(source)))
        context = F.interpolate(context, flows[0].shape[2:], mode="bilinear", align_corners=True)
        context = F.dropout2d(context, _CONTEXT_DROPOUT, self.training)
        refined = torch.cat([flows[0], context, *flows[1:]], dim=1)
        total = torch.zeros_like(refined)
        for block in self.blocks:
            refined = block(refined)
            total = total + refined
        return flows[-1] + self.conv2(F.relu(self.conv1(total)))
