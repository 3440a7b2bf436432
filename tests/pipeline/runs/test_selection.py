from pathlib import Path

import pytest
from make import match_rows, pair_row, run_description, write_pairs

from pipeline.io.manifest import Manifest
from pipeline.runs.folder import open_run
from pipeline.runs.parts import write_part
from pipeline.runs.selection import planned_count, planned_limit, planned_pairs


@pytest.mark.parametrize(("limit", "n_pairs"), [(None, 4), (2, 2), (9, 4)])
def test_an_unfinished_run_is_of_the_pairs_it_was_asked_for(tmp_path: Path, limit: int | None, n_pairs: int) -> None:
    pairs = write_pairs(tmp_path / "pairs.parquet", [pair_row(name) for name in "dabc"])
    run = open_run(str(tmp_path / "run"), run_description(pairs, limit=limit))

    with Manifest(pairs) as manifest:
        assert planned_limit(manifest, run.out) == limit
        assert planned_count(manifest, run.out) == n_pairs
        assert planned_pairs(manifest, run.out)["pair_id"].to_pylist() == list("dabc")[:n_pairs]


def test_matches_that_are_no_run_are_of_all_pairs(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.parquet", [pair_row(name) for name in "abc"])
    write_part(str(tmp_path), match_rows({"pair_id": "a"}))
    (part,) = (tmp_path / "parts").iterdir()

    with Manifest(pairs) as manifest:
        assert planned_limit(manifest, str(tmp_path)) is None
        assert planned_limit(manifest, str(part)) is None


def test_the_first_pairs_of_another_manifest_are_not_those_of_the_run(tmp_path: Path) -> None:
    """A run of all pairs may be scored against another manifest, such as some of its pairs."""
    pairs = write_pairs(tmp_path / "pairs.parquet", [pair_row(name) for name in "dabc"])
    other = write_pairs(tmp_path / "other.parquet", [pair_row(name) for name in "abc"])
    whole = open_run(str(tmp_path / "whole"), run_description(pairs))
    limited = open_run(str(tmp_path / "limited"), run_description(pairs, limit=2))

    with Manifest(other) as manifest:
        assert planned_pairs(manifest, whole.out)["pair_id"].to_pylist() == list("abc")
    with (
        Manifest(other) as manifest,
        pytest.raises(ValueError, match=r"is of the first 2 pairs of its manifest, and .*other\.parquet is not"),
    ):
        planned_pairs(manifest, limited.out)
