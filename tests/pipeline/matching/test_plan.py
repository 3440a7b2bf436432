from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from make import pair_row, write_pairs

from pipeline.io.manifest import Manifest, read_rows
from pipeline.matching.plan import Plan, make_plan


def _plan(pairs: str, slice_pairs: int, limit: int | None = None, done: tuple[str, ...] = ()) -> Plan:
    done_ids = pa.chunked_array([pa.array(done, pa.string())])
    with Manifest(pairs) as manifest:
        return make_plan(manifest, manifest.ids().slice(0, limit), done_ids, slice_pairs=slice_pairs)


def _planned_ids(plan: Plan) -> list[list[str]]:
    rows = [next(read_rows(s.file, s.row_group, s.rows)) for s in plan.slices]
    return [table["pair_id"].to_pylist() for table in rows]


def test_every_pair_that_is_not_done_is_in_one_slice(tmp_path: Path) -> None:
    file = write_pairs(tmp_path / "a.parquet", [pair_row(str(n)) for n in range(10)], row_group_size=4)

    plan = _plan(file, slice_pairs=3, done=("0", "5"))

    assert (plan.n_pairs, plan.n_done, plan.n_left) == (10, 2, 8)
    assert _planned_ids(plan) == [["1", "2", "3"], ["4", "6", "7"], ["8", "9"]]


@pytest.mark.parametrize("apart", [1, 16])
def test_a_slice_has_few_images_on_either_side(tmp_path: Path, apart: int) -> None:
    """Also where the sources are few of the images that are targets, far apart in order of name."""
    sources, targets = [f"{n * apart:03d}" for n in range(16)], [f"{n:03d}" for n in range(16)]
    rows = [pair_row(f"{s} {t}", source_uri=s, target_uri=t) for s in sources for t in targets]
    file = write_pairs(tmp_path / "a.parquet", [rows[index] for index in np.random.default_rng(0).permutation(256)])

    planned = _planned_ids(_plan(file, slice_pairs=64))

    assert sorted(pair_id for ids in planned for pair_id in ids) == sorted(row["pair_id"] for row in rows)
    sides = [[{pair_id.split()[side] for pair_id in ids} for side in (0, 1)] for ids in planned]
    assert [(len(sources), len(targets)) for sources, targets in sides] == [(8, 8)] * 4


def test_pairs_without_uris_keep_their_order(tmp_path: Path) -> None:
    rows = [pair_row(str(n), source_image=b"a", target_image=b"b") for n in (3, 1, 2)]

    assert _planned_ids(_plan(write_pairs(tmp_path / "a.parquet", rows), slice_pairs=9)) == [["3", "1", "2"]]


@pytest.mark.parametrize(("limit", "planned"), [(1, ["0"]), (5, ["0", "1", "2", "3", "4"]), (99, list("0123456"))])
def test_a_limit_plans_the_first_pairs_of_the_manifest(tmp_path: Path, limit: int, planned: list[str]) -> None:
    write_pairs(tmp_path / "a.parquet", [pair_row(str(n)) for n in range(4)])
    write_pairs(tmp_path / "b.parquet", [pair_row(str(n)) for n in range(4, 7)])

    plan = _plan(str(tmp_path), slice_pairs=100, limit=limit)

    assert [pair_id for ids in _planned_ids(plan) for pair_id in ids] == planned
    assert plan.n_pairs == len(planned)


def test_categorical_uris_as_pandas_writes_them(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    frame = pd.DataFrame({"pair_id": ["1", "2"], "source_uri": ["b", "a"], "target_uri": ["c", "c"]})
    frame.astype({"source_uri": "category"}).to_parquet(file)

    assert _planned_ids(_plan(str(file), slice_pairs=2)) == [["2", "1"]]
