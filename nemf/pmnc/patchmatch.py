"""PatchMatch over cells: good matches spread over the query's map, and their neighbours are tried. No random numbers.

One iteration, for all query cells at once, from the matches of the iteration before. The candidates of a cell are

* the matches of 21 cells round it and itself (`PROPAGATION`). The map is mirrored at its borders;
* its own match moved by up to one cell (`LOCAL`);

each clamped into the reference's map. The cell takes the candidate with the greatest score, of equal ones the first.
It ends early where no match changed: the next iteration would try the same candidates.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Size = tuple[int, int]
Score = Callable[[Int64[Tensor, " n"], Int64[Tensor, " n"]], Float[Tensor, " n"]]
"""The score of query cells each with a reference cell. A score depends neither on the other cells nor on their number;
NaN counts as minus infinity."""

PROPAGATION = (
    *((0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (0, 3), (0, -3), (3, 0), (-3, 0), (0, 5), (0, -5), (5, 0), (-5, 0)),
    *((1, 2), (1, -2), (-1, 2), (-1, -2), (2, 1), (2, -1), (-2, 1), (-2, -1)),
)
"""Steps (rows, columns) from a cell to those whose matches it tries, as in an author's prototype; itself first."""
LOCAL = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))
"""Steps (rows, columns) from a cell's match to its candidates."""


class CellMatches(NamedTuple):
    """The result of a search."""

    cell: Int64[Tensor, " q"]
    """The reference cell of each query cell."""
    local_scores: Float[Tensor, "q 9"]
    """The scores of that cell moved by each of LOCAL; minus infinity outside the reference's map."""
    iterations: int
    """Number of iterations that were run."""
    scored: int
    """Number of pairs of cells that were scored."""


@torch.no_grad()
def match_cells(
    score: Score, start: Int64[Tensor, " q"], query_hw: Size, reference_hw: Size, iterations: int, offset: bool
) -> CellMatches:
    """The best reference cell of each query cell; cells are numbered row by row.

    start: the first match of each query cell.
    offset: a cell tries the match of another moved by the step back from there, else that match itself, as the
        prototype does.
    """
    scores = _Scores(score, reference_hw[0] * reference_hw[1])
    around, steps = _neighbours(query_hw, start.device)
    match, count = _rows_and_columns(start, reference_hw), 0
    has_moved = torch.ones_like(start, dtype=torch.bool)
    while count < iterations and has_moved.any():
        # the others have the candidates of the iteration before, and its answer
        query = has_moved[around].any(dim=1).nonzero()
        cell = query[:, 0]
        propagated = match[around[cell]] - steps[cell] if offset else match[around[cell]]
        local = match[query] + match.new_tensor(LOCAL)
        candidates = _index(torch.cat([propagated, local], dim=1), reference_hw)
        best = scores.of(query, candidates).argmax(dim=1, keepdim=True)
        moved = match.clone()
        moved[cell] = _rows_and_columns(candidates.gather(1, best)[:, 0], reference_hw)
        has_moved = (moved != match).any(dim=1)
        match = moved
        count += 1
    local = match[:, None] + match.new_tensor(LOCAL)
    inside = ((local >= 0) & (local < match.new_tensor(reference_hw))).all(dim=2)
    every = torch.arange(len(start), device=start.device)[:, None]
    local_scores = scores.of(every, _index(local, reference_hw)).masked_fill(~inside, -torch.inf)
    return CellMatches(_index(match, reference_hw), local_scores, count, len(scores))


class _Scores:
    """Scores of pairs of cells, each computed once."""

    def __init__(self, score: Score, n_reference: int) -> None:
        self._score, self._n_reference = score, n_reference
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def __len__(self) -> int:
        return 0 if self._keys is None else len(self._keys)

    def of(self, query: Int64[Tensor, "q 1"], reference: Int64[Tensor, "q k"]) -> Float[Tensor, "q k"]:
        wanted = query * self._n_reference + reference
        missing = wanted.unique()  # sorted: neighbouring cells read neighbouring correlations
        if self._keys is not None and self._values is not None:
            place = torch.searchsorted(self._keys, missing).clamp(max=len(self._keys) - 1)
            missing = missing[self._keys[place] != missing]
        values = self._score(missing // self._n_reference, missing % self._n_reference)
        values = torch.where(values.isnan(), -torch.inf, values)
        if self._keys is not None and self._values is not None:
            missing, values = torch.cat([self._keys, missing]), torch.cat([self._values, values])
        self._keys, order = missing.sort()
        self._values = values[order]
        return self._values[torch.searchsorted(self._keys, wanted)]


def _neighbours(hw: Size, device: torch.device) -> tuple[Int64[Tensor, "q 21"], Int64[Tensor, "q 21 2"]]:
    """The cells whose matches each cell tries, and the steps (rows, columns) to them."""
    cell = _rows_and_columns(torch.arange(hw[0] * hw[1], device=device), hw)[:, None]
    beyond = cell + torch.tensor(PROPAGATION, device=device)
    around = torch.stack([_mirrored(beyond[..., axis], hw[axis]) for axis in (0, 1)], dim=-1)
    return around[..., 0] * hw[1] + around[..., 1], around - cell


def _mirrored(index: Int64[Tensor, "q k"], size: int) -> Int64[Tensor, "q k"]:
    """The index mirrored at the first and the last one, which are not repeated."""
    period = max(2 * (size - 1), 1)
    folded = index.remainder(period)
    return torch.minimum(folded, period - folded) if size > 1 else torch.zeros_like(index)


def _rows_and_columns(cell: Int64[Tensor, " n"], hw: Size) -> Int64[Tensor, "n 2"]:
    return torch.stack([cell // hw[1], cell % hw[1]], dim=-1)


def _index(cell: Int64[Tensor, "*n 2"], hw: Size) -> Int64[Tensor, "*n"]:
    """The number of each cell, clamped into the map."""
    row, column = cell[..., 0].clamp(0, hw[0] - 1), cell[..., 1].clamp(0, hw[1] - 1)
    return row * hw[1] + column
