from pathlib import Path

import pytest
from make import match_rows, pair_row, run_description, write_pairs

from pipeline.runs.folder import open_run
from pipeline.runs.parts import write_part
from pipeline.runs.selection import planned_count, planned_limit, planned_pairs


@pytest.mark.parametrize(("limit", "n_pairs"), [(None, 4), (2, 2), (9, 4)])
def test_an_unfinished_run_is_of_the_pairs_it_was_asked_for(tmp_path: Path, limit: int | None, n_pairs: int) -> None:
    pairs = write_pairs(tmp_path / "pairs.parquet", [pair_row(name) for name in "dabc"])
    run = open_run(str(tmp_path / "run"), run_description(limit=limit))

    assert planned_limit(run.out) == limit
    assert planned_count(pairs, run.out) == n_pairs
    assert planned_pairs(pairs, run.out)["pair_id"].to_pylist() == list("dabc")[:n_pairs]


def test_matches_that_are_no_run_are_of_all_pairs(tmp_path: Path) -> None:
    write_part(str(tmp_path), match_rows({"pair_id": "a"}))
    (part,) = (tmp_path / "parts").iterdir()

    assert planned_limit(str(tmp_path)) is None
    assert planned_limit(str(part)) is None
