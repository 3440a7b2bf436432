"""Compaction changes the order and grouping of rows, and nothing else, whenever it is killed."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make import match_rows, run_description

from pipeline.io import storage
from pipeline.runs.compact import compact, plan_compaction
from pipeline.runs.flow_codec import encode_flow
from pipeline.runs.folder import open_run, read_run
from pipeline.runs.parts import list_parts, part_sizes, read_matches, write_part

N_PAIRS = 90
GONE = {"status": "error", "error_stage": "fetch", "error_kind": "not_found", "error_message": "nothing there"}


class KilledError(BaseException):
    """The exception that ends compaction in a test."""


@pytest.fixture
def run(tmp_path: Path) -> str:
    """30 parts of three pairs in both directions, in mixed order, with flow; nine pairs failed and were asked again."""
    out = str(tmp_path / "run")
    rng = np.random.default_rng(0)
    order = rng.permutation(N_PAIRS)
    for start in range(0, N_PAIRS, 3):
        write_part(out, _rows(order[start : start + 3], 1, failed=range(9)))
    write_part(out, _rows(np.arange(9), 2, failed=range(3)))
    return out


def _rows(numbers: np.ndarray, attempt: int, failed: range) -> pa.Table:
    rows = []
    for number in numbers:
        rng = np.random.default_rng(number)
        for direction in ("target_to_source", "source_to_target"):
            row = {"pair_id": f"pair-{number:03d}", "direction": direction, "attempt": attempt}
            points = rng.uniform(0, 9, (4, 2)).tolist()
            answer = {"reference_xy_px": points, **encode_flow(rng.normal(0, 9, (6, 5, 2)).astype(np.float32))}
            rows.append(row | (GONE if number in failed else answer))
    return match_rows(*rows)


def _compact(out: str, target_bytes: int = 2**14) -> int:
    opened = open_run(out, run_description())
    plan = plan_compaction(opened, target_bytes)
    return len(compact(opened, plan)) if plan.is_needed else 0


def test_the_table_is_the_same_row_for_row_in_few_sorted_parts(run: str) -> None:
    before = read_matches(run)
    total = sum(part_sizes(run).values())

    _compact(run, total // 4)

    assert read_matches(run).equals(before)
    assert 2 <= len(list_parts(run)) <= 5
    written = [pq.read_table(part, partitioning=None) for part in list_parts(run)]
    assert sum(table.num_rows for table in written) == 2 * N_PAIRS == before.num_rows
    spans = sorted((table["pair_id"][0].as_py(), table["pair_id"][-1].as_py()) for table in written)
    for table in written:
        assert table.equals(table.sort_by([("pair_id", "ascending"), ("direction", "ascending")]))
    assert all(last < first or last == first for (_, last), (first, _) in pairwise(spans))


def test_a_compacted_run_is_left_alone_until_there_is_more(run: str) -> None:
    assert _compact(run, 2**30) == 1
    parts = list_parts(run)

    assert _compact(run, 2**30) == 0
    assert list_parts(run) == parts

    write_part(run, _rows(np.arange(3), 3, failed=range(0)))
    before = read_matches(run)
    assert _compact(run, 2**30) == 1
    assert list_parts(run) != parts
    assert read_matches(run).equals(before)
    assert set(before["status"].to_pylist()) == {"ok"}


def test_one_pair_is_looked_up_in_one_row_group(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.runs.compact.ROW_GROUP_ROWS", 10)
    _compact(run, 2**30)

    (part,) = list_parts(run)
    metadata = pq.read_metadata(part)
    column = metadata.schema.names.index("pair_id")
    stored = [metadata.row_group(group).column(column).statistics for group in range(metadata.num_row_groups)]
    assert metadata.num_row_groups == 18
    assert sum(s.min <= "pair-007" <= s.max for s in stored) == 1
    assert [order.column_index for order in metadata.row_group(0).sorting_columns] == [0, 1]
    assert metadata.metadata[b"run_id"].decode() == read_run(run).run_id


@pytest.mark.parametrize(
    ("step", "fatal"),
    [("atomic_writer", 0), ("atomic_writer", 2), ("delete_file", 0), ("delete_file", 1), ("delete_file", 20)],
)
def test_killed_between_the_steps_nothing_is_lost_and_it_is_run_again(
    run: str, step: str, fatal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_matches(run)
    target_bytes = sum(part_sizes(run).values()) // 3
    steps = iter(range(1000))
    real = getattr(storage, step)

    def dying(uri: str) -> object:
        if next(steps) >= fatal:
            raise KilledError
        return real(uri)

    opened = open_run(run, run_description())
    plan = plan_compaction(opened, target_bytes)
    with monkeypatch.context() as patch:
        patch.setattr(storage, step, dying)
        with pytest.raises(KilledError):
            compact(opened, plan)

    assert read_matches(run).equals(before)
    _compact(run, target_bytes)
    assert read_matches(run).equals(before)
    assert len(list_parts(run)) <= 4
    assert sum(pq.read_metadata(part).num_rows for part in list_parts(run)) == before.num_rows


def test_a_reader_finds_what_was_compacted_under_its_hands(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_matches(run)
    real = storage.read_bytes
    began = iter([True])

    def compacted_meanwhile(uri: str) -> bytes:
        if next(began, False):
            _compact(run, 2**30)
        return real(uri)

    monkeypatch.setattr("pipeline.runs.parts.THREADS", 1)
    monkeypatch.setattr(storage, "read_bytes", compacted_meanwhile)

    assert read_matches(run).equals(before)


def test_rows_of_another_run_are_refused(run: str) -> None:
    name = write_part(run, match_rows({"pair_id": "stranger", "fingerprint": "another run's"})).name

    with pytest.raises(ValueError, match=f"{name} holds rows of another run"):
        plan_compaction(open_run(run, run_description()), 2**20)


def test_an_empty_run_needs_none(tmp_path: Path) -> None:
    assert not plan_compaction(open_run(str(tmp_path), run_description()), 2**20).is_needed
