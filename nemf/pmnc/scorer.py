"""The local scoring function: a stack of 4D convolutions that makes one score of a 4D patch of the correlation.

Volumes have the axes (query row, query column, reference row, reference column). Three forms of one network:

* `forward`, its definition: every layer padded with zeros, over a whole volume. As in NC-Net (Rocco et al. 2018);
* `score_patches`: one score for each patch, the layers without padding. PatchMatch runs this;
* `score_slabs`: the scores of one query cell with all reference cells. Training and confidence run this.

They agree at every cell, also near the borders, because hidden values of cells outside either map are set to 0, which
is what a padded layer sees there.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

Size = tuple[int, int]


class LocalScorer(nn.Module):
    """4D convolutions with ReLUs between them, none after the last: scores are logits of either sign.

    kernels: sides of the kernels, odd. channels: after each layer, the last 1.
    Raises ValueError for sizes that cannot be.
    """

    def __init__(self, kernels: Sequence[int], channels: Sequence[int]) -> None:
        super().__init__()
        check_layers(kernels, channels)
        self.radius = sum(kernel // 2 for kernel in kernels)
        sizes = zip([1, *channels[:-1]], channels, kernels, strict=True)
        self.layers = nn.ModuleList(WholeConv4d(*size) for size in sizes)

    @property
    def patch_side(self) -> int:
        """Cells a side of the patches that it scores."""
        return 2 * self.radius + 1

    def _convolutions(self) -> "Iterator[WholeConv4d]":
        for layer in self.layers:
            assert isinstance(layer, WholeConv4d)
            yield layer

    def forward(self, volume: Float[Tensor, "hq wq hr wr"]) -> Float[Tensor, "hq wq hr wr"]:
        """The score of every query cell with every reference cell; holds each layer's whole output."""
        values = volume[None]
        for number, layer in enumerate(self._convolutions()):
            values = layer(F.relu_(values) if number else values)
        return values[0]

    def score_patches(
        self,
        patches: Float[Tensor, "n side side side side"],
        query_cell: Int64[Tensor, "n 2"],
        reference_cell: Int64[Tensor, "n 2"],
        query_hw: Size,
        reference_hw: Size,
    ) -> Float[Tensor, " n"]:
        """The score of each patch, of side `patch_side`.

        query_cell, reference_cell: row and column of the patch's middle.
        """
        values = patches[:, None]
        for number, layer in enumerate(self._convolutions()):
            if number and (side := values.shape[2]) > 1:
                query, reference = _inside(query_cell, side, query_hw), _inside(reference_cell, side, reference_hw)
                values = values * (query[:, :, :, None, None] & reference[:, None, None])[:, None]
            values = layer.on_patches(F.relu(values) if number else values)
        return values.flatten()

    def score_slabs(
        self,
        slabs: Float[Tensor, "m side side hr wr"],
        query_cell: Int64[Tensor, "m 2"],
        query_hw: Size,
    ) -> Float[Tensor, "m hr wr"]:
        """The scores of each of m query cells with all reference cells.

        slabs: the correlations of the query cells round each of them, 0 outside the map. query_cell: row and column.
        """
        values = slabs[:, None]
        for number, layer in enumerate(self._convolutions()):
            if number and (side := values.shape[2]) > 1:
                values = values * _inside(query_cell, side, query_hw)[:, None, :, :, None, None]
            values = layer.on_slabs(F.relu(values) if number else values)
        return values[:, 0, 0, 0]


class WholeConv4d(nn.Module):
    """A 4D convolution with a kernel of side^4, unlike the separable one of nemf.model.conv4d."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *4 * (kernel,)))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")

    def forward(self, volume: Float[Tensor, "c hq wq hr wr"]) -> Float[Tensor, "d hq wq hr wr"]:
        """Padded with zeros in all four axes, one query row after the other."""
        margin = self.kernel // 2
        padded = F.pad(volume, (0, 0, 0, 0, *4 * (margin,)))
        out = volume.new_empty(len(self.bias), *volume.shape[1:])
        for row in range(volume.shape[1]):
            out[:, row] = self.on_slabs(padded[None, :, row : row + self.kernel])[0, :, 0]
        return out

    def on_slabs(self, slabs: Float[Tensor, "m c a b hr wr"]) -> Float[Tensor, "m d a2 b2 hr wr"]:
        """Without padding in the two query axes, which lose kernel - 1 cells, and padded in the reference axes."""
        windows = slabs.unfold(2, self.kernel, 1).unfold(3, self.kernel, 1)
        m, _, a, b, *_ = windows.shape
        maps = windows.permute(0, 2, 3, 1, 6, 7, 4, 5).flatten(3, 5).flatten(0, 2)
        out = F.conv2d(maps, self.weight.flatten(1, 3), self.bias, padding=self.kernel // 2)
        return out.view(m, a, b, *out.shape[1:]).permute(0, 3, 1, 2, 4, 5)

    def on_patches(self, patches: Float[Tensor, "n c s s s s"]) -> Float[Tensor, "n d t t t t"]:
        """Without padding: every axis loses kernel - 1 cells."""
        windows = patches
        for axis in range(2, 6):
            windows = windows.unfold(axis, self.kernel, 1)
        n, _, side, *_ = windows.shape
        rows = windows.permute(0, 2, 3, 4, 5, 1, 6, 7, 8, 9).reshape(n * side**4, -1)
        out = F.linear(rows, self.weight.flatten(1), self.bias)
        return out.view(n, *4 * (side,), -1).movedim(-1, 1)


def check_layers(kernels: Sequence[int], channels: Sequence[int]) -> None:
    """Raises ValueError where no scorer has such layers."""
    if not kernels or len(kernels) != len(channels):
        raise ValueError(f"there must be a kernel for each number of channels; got {kernels} and {channels}")
    if any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
        raise ValueError(f"kernels must be odd, so that a patch has a middle; got {list(kernels)}")
    if channels[-1] != 1 or min(channels) < 1:
        raise ValueError(f"the last of the channels must be 1, the score; got {list(channels)}")


def _inside(cell: Int64[Tensor, "n 2"], side: int, hw: Size) -> Bool[Tensor, "n side side"]:
    """Whether the cells of a window of this side around each cell lie inside the map."""
    around = torch.arange(side, device=cell.device) - side // 2
    row, column = cell[:, :1] + around, cell[:, 1:] + around
    row_inside, column_inside = (row >= 0) & (row < hw[0]), (column >= 0) & (column < hw[1])
    return row_inside[:, :, None] & column_inside[:, None]
