"""The mutually filtered correlation of one pair, as PatchMatch reads it: patches and slabs round single cells.

Cells are numbered row by row.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from nemf.model.correlation import mutually_filtered

Size = tuple[int, int]


class FilteredCorrelation:
    """The correlation of every query cell with every reference cell after soft mutual nearest neighbours.

    It is computed query row by query row, so that nothing else of its size is in memory.
    query, reference: features (c, h, w) of unit length.
    radius: number of cells on each side of the middle one of a patch. Outside of the maps correlations are 0.
    """

    @torch.no_grad()
    def __init__(self, query: Float[Tensor, "c hq wq"], reference: Float[Tensor, "c hr wr"], radius: int) -> None:
        self.query_hw, self.reference_hw = _hw(query), _hw(reference)
        self.side = 2 * radius + 1
        (hq, wq), (hr, wr) = self.query_hw, self.reference_hw
        self._padded = query.new_zeros(hq + 2 * radius, wq + 2 * radius, hr + 2 * radius, wr + 2 * radius)
        inside = [slice(radius, radius + size) for size in (hq, wq, hr, wr)]
        self.volume = volume = self._padded[tuple(inside)]
        """All of it, (query rows, query columns, reference rows, reference columns)."""
        best_query = query.new_full((1, hr * wr), -torch.inf)
        columns = reference.flatten(1)
        for row in range(hq):
            correlation = query[:, row].T @ columns
            volume[row] = correlation.view(wq, hr, wr)
            best_query = torch.maximum(best_query, correlation.amax(dim=0, keepdim=True))
        best = []
        for row in range(hq):
            correlation = volume[row].flatten(1)
            filtered = mutually_filtered(correlation, correlation.amax(dim=1, keepdim=True), best_query)
            volume[row] = filtered.view(wq, hr, wr)
            best.append(filtered.argmax(dim=1))
        self.best = torch.cat(best)
        """The reference cell of the greatest filtered correlation of each query cell."""
        strides = self._padded.stride()
        steps = [torch.arange(self.side, device=query.device) * stride for stride in strides[:3]]
        self._rows_of_patch = (steps[0].view(-1, 1, 1) + steps[1].view(-1, 1) + steps[2]).flatten()

    def patches(
        self, query: Int64[Tensor, " n"], reference: Int64[Tensor, " n"]
    ) -> Float[Tensor, "n side side side side"]:
        """The correlations of the cells round each query cell with those round its reference cell."""
        strides, (_, wq), (_, wr) = self._padded.stride(), self.query_hw, self.reference_hw
        corner = query // wq * strides[0] + query % wq * strides[1] + reference // wr * strides[2] + reference % wr
        rows = self._padded.view(-1).unfold(0, self.side, 1)  # of reference columns, one at every place of the memory
        values = rows.index_select(0, (corner[:, None] + self._rows_of_patch).flatten())
        return values.view(-1, *4 * (self.side,))

    def slabs(self, query: Int64[Tensor, " m"]) -> Float[Tensor, "m side side hr wr"]:
        """The correlations of the cells round each query cell with all reference cells."""
        (_, wq), (hr, wr), radius = self.query_hw, self.reference_hw, self.side // 2
        windows = self._padded[..., radius : radius + hr, radius : radius + wr]
        windows = windows.unfold(0, self.side, 1).unfold(1, self.side, 1)
        return windows[query // wq, query % wq].permute(0, 3, 4, 1, 2)


def slabs(
    volume: Float[Tensor, "hq wq hr wr"], query: Int64[Tensor, " m"], radius: int
) -> Float[Tensor, "m side side hr wr"]:
    """The same of a whole volume, through which gradients flow."""
    padded = F.pad(volume, (0, 0, 0, 0, *4 * (radius,)))
    around = torch.arange(2 * radius + 1, device=query.device)
    row, column = query // volume.shape[1], query % volume.shape[1]
    return padded[(row[:, None] + around)[:, :, None], (column[:, None] + around)[:, None]]


def _hw(features: Float[Tensor, "c h w"]) -> Size:
    return features.shape[1], features.shape[2]
