"""The search is a plain loop of its specification, exactly."""

from functools import partial

import pytest
import torch

from nemf.pmnc.patchmatch import LOCAL, PROPAGATION, match_cells

QUERY_HW, REFERENCE_HW = (7, 9), (8, 6)


def table(seed: int, levels: int = 40) -> torch.Tensor:
    """A score for each pair of cells: of few levels, so that there are ties."""
    shape = QUERY_HW[0] * QUERY_HW[1], REFERENCE_HW[0] * REFERENCE_HW[1]
    return torch.randint(0, levels, shape, generator=torch.Generator().manual_seed(seed)).float()


def read(scores: torch.Tensor, query: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    return scores[query, reference]


def random_start(seed: int) -> torch.Tensor:
    n_query, n_reference = QUERY_HW[0] * QUERY_HW[1], REFERENCE_HW[0] * REFERENCE_HW[1]
    return torch.randint(0, n_reference, (n_query,), generator=torch.Generator().manual_seed(seed))


def mirrored(index: int, size: int) -> int:
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


def plain_search(scores: torch.Tensor, start: torch.Tensor, iterations: int, offset: bool) -> list[int]:
    (hq, wq), (hr, wr) = QUERY_HW, REFERENCE_HW
    match = start.tolist()
    for _ in range(iterations):
        before = list(match)
        for row in range(hq):
            for column in range(wq):
                candidates = []
                for down, right in PROPAGATION:
                    other = mirrored(row + down, hq), mirrored(column + right, wq)
                    there = before[other[0] * wq + other[1]]
                    back = (other[0] - row, other[1] - column) if offset else (0, 0)
                    candidates.append((there // wr - back[0], there % wr - back[1]))
                own = before[row * wq + column]
                candidates += [(own // wr + down, own % wr + right) for down, right in LOCAL]
                clamped = [min(max(y, 0), hr - 1) * wr + min(max(x, 0), wr - 1) for y, x in candidates]
                match[row * wq + column] = max(clamped, key=lambda cell: scores[row * wq + column, cell])
    return match


@pytest.mark.parametrize("offset", [False, True])
@pytest.mark.parametrize("iterations", [0, 1, 3, 30])
def test_plain_loop(iterations, offset):
    for seed in range(3):
        scores, start = table(seed), random_start(seed)
        found = match_cells(partial(read, scores), start, QUERY_HW, REFERENCE_HW, iterations, offset)
        assert found.cell.tolist() == plain_search(scores, start, iterations, offset)
        assert found.iterations <= iterations


def test_the_candidates_of_a_cell():
    assert len(PROPAGATION) == len(set(PROPAGATION)) == 21
    assert PROPAGATION[0] == (0, 0)
    assert all((-row, -column) in PROPAGATION and (column, row) in PROPAGATION for row, column in PROPAGATION)
    assert max(abs(step) for pair in PROPAGATION for step in pair) == 5
    assert sorted({abs(row) + abs(column) for row, column in PROPAGATION}) == [0, 1, 3, 5]
    assert len(LOCAL) == 9


def test_no_pair_of_cells_is_scored_twice_and_nan_never_wins():
    scores, seen = table(0), []
    scores[:, 3] = torch.nan

    def score(query: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
        seen.extend(zip(query.tolist(), reference.tolist(), strict=True))
        return scores[query, reference]

    start = random_start(0).where(random_start(0) != 3, 4)
    found = match_cells(score, start, QUERY_HW, REFERENCE_HW, 8, False)
    assert len(seen) == len(set(seen)) == found.scored
    assert not (found.cell == 3).any()


def test_local_scores_are_those_round_the_match():
    scores = table(1)
    found = match_cells(partial(read, scores), random_start(1), QUERY_HW, REFERENCE_HW, 8, False)
    for query, (cell, local) in enumerate(zip(found.cell.tolist(), found.local_scores.tolist(), strict=True)):
        for (down, right), value in zip(LOCAL, local, strict=True):
            row, column = cell // REFERENCE_HW[1] + down, cell % REFERENCE_HW[1] + right
            inside = 0 <= row < REFERENCE_HW[0] and 0 <= column < REFERENCE_HW[1]
            assert value == (scores[query, row * REFERENCE_HW[1] + column] if inside else -torch.inf)


def test_a_planted_shift_spreads_from_one_cell():
    """Scores are high only at the shift by (1, -2) cells: one cell that starts there tells all others."""
    rows, columns = torch.meshgrid(torch.arange(12), torch.arange(12), indexing="ij")
    truth = ((rows + 1).clamp(max=11) * 12 + (columns - 2).clamp(min=0)).flatten()
    scores = torch.zeros(144, 144)
    scores[torch.arange(144), truth] = 1
    start = torch.zeros(144, dtype=torch.int64)
    start[5 * 12 + 6] = truth[5 * 12 + 6]
    found = match_cells(partial(read, scores), start, (12, 12), (12, 12), 12, True)
    interior = ((rows < 11) & (columns >= 2)).flatten()
    assert torch.equal(found.cell[interior], truth[interior])
