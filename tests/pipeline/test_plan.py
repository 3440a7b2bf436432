from pathlib import Path

import pyarrow as pa
import pytest
from make import pair_row, write_pairs

from pipeline.manifest import read_rows
from pipeline.plan import Plan, make_plan
from schemas.check import SchemaError

NONE_DONE = pa.array([], pa.string())


def _planned_ids(plan: Plan) -> list[list[str]]:
    return [read_rows(s.file, s.row_group, s.rows)["pair_id"].to_pylist() for s in plan.slices]


def test_every_pair_that_is_not_done_is_in_one_slice(tmp_path: Path) -> None:
    file = write_pairs(tmp_path / "a.parquet", [pair_row(str(n)) for n in range(10)], row_group_size=4)

    plan = make_plan(file, pa.array(["0", "5"]), slice_pairs=3)

    assert (plan.n_pairs, plan.n_done, plan.n_left) == (10, 2, 8)
    assert _planned_ids(plan) == [["1", "2", "3"], ["4", "6", "7"], ["8", "9"]]


def test_pairs_that_share_images_are_brought_together(tmp_path: Path) -> None:
    rows = [pair_row(f"{s}{t}", source_uri=s, target_uri=t) for t in "xyz" for s in "ba"]
    file = write_pairs(tmp_path / "a.parquet", rows)

    assert _planned_ids(make_plan(file, NONE_DONE, slice_pairs=3)) == [["ax", "ay", "az"], ["bx", "by", "bz"]]


@pytest.mark.parametrize(("limit", "planned"), [(1, ["0"]), (5, ["0", "1", "2", "3", "4"]), (99, list("0123456"))])
def test_a_limit_plans_the_first_pairs_of_the_manifest(tmp_path: Path, limit: int, planned: list[str]) -> None:
    write_pairs(tmp_path / "a.parquet", [pair_row(str(n)) for n in range(4)])
    write_pairs(tmp_path / "b.parquet", [pair_row(str(n)) for n in range(4, 7)])

    plan = make_plan(str(tmp_path), NONE_DONE, slice_pairs=100, limit=limit)

    assert [pair_id for ids in _planned_ids(plan) for pair_id in ids] == planned
    assert plan.n_pairs == len(planned)


def test_repeated_ids_are_refused_across_files(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.parquet", [pair_row("1"), pair_row("twice")])
    write_pairs(tmp_path / "b.parquet", [pair_row("twice")])

    with pytest.raises(SchemaError, match="1 pair_id occur more than once, for instance 'twice'"):
        make_plan(str(tmp_path), NONE_DONE, slice_pairs=10)


def test_an_empty_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="the manifest has no rows"):
        make_plan(write_pairs(tmp_path / "a.parquet", []), NONE_DONE, slice_pairs=10)
