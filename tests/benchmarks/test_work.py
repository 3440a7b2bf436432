"""The benchmark of cost over work runs, and its table has what further work costs; measured values are not asserted."""

import json
from pathlib import Path

import pytest

from benchmarks import work
from benchmarks.memory_use import FamilyUse


def test_cost_over_work_is_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs: list[list[str]] = []

    def watch(command: list[str]) -> FamilyUse:
        runs.append(command)
        return FamilyUse(seconds=3, cpu_seconds=4, peak_mb=5)

    monkeypatch.setattr(work, "watch", watch)

    rows = work.run(
        work.Config(matcher="identity", keypoints=(1, 3), sides=(16, 32), pairs=(4,), repeats=1, out=str(tmp_path))
    )

    assert [(row.of, row.amount) for row in rows] == [
        (work.KEYPOINTS, 1),
        (work.KEYPOINTS, 3),
        (work.SIDES, 16),
        (work.SIDES, 32),
        (work.RUNS, 4),
    ]
    assert all(row.cpu_seconds > 0 for row in rows)
    assert "jobs.match" in runs[0]
    assert len(json.loads((tmp_path / "work.json").read_text())["rows"]) == 5
    assert (tmp_path / "work.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_the_cost_of_each_and_of_each_further_one():
    rows = [
        work.Row(of=work.KEYPOINTS, amount=10, cpu_seconds=0.1),
        work.Row(of=work.KEYPOINTS, amount=110, cpu_seconds=0.3),
        work.Row(of=work.RUNS, amount=100, cpu_seconds=12, peak_mb=2000),
    ]

    assert work.table(rows)[2:] == [
        "| keypoints of a pair | 10 | 0.1 | 10 |  |  |",
        "| keypoints of a pair | 110 | 0.3 | 2.73 | 2 |  |",
        "| pairs of a run | 100 | 12 | 120 |  | 2,000 |",
    ]
