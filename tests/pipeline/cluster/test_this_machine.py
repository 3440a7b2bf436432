"""The cores and the memory that this process may use."""

import os
from pathlib import Path

import psutil
import pytest

from pipeline.cluster.this_machine import free_memory, usable_cores

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("limit", "cores"),
    [("100000 100000", 1), ("50000 100000", 1), ("99900000 100000", CORES), ("max 100000", CORES), ("", CORES)],
)
def test_no_more_cores_than_the_containers_share(limit: str, cores: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")

    assert usable_cores(tmp_path) == cores


def test_no_more_memory_than_the_container_has_left(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("1000000\n")
    for limit, free in (("1500000", 500_000), ("900000", 0)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert free_memory(tmp_path) == free


@pytest.mark.parametrize("limit", [None, "max"])
def test_without_a_limit_all_that_the_machine_has(limit: str | None, tmp_path: Path) -> None:
    if limit:
        (tmp_path / "memory.max").write_text(limit)

    assert usable_cores(tmp_path / "absent") == CORES
    assert 0 < free_memory(tmp_path) <= psutil.virtual_memory().total
