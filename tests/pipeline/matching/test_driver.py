"""What the driver gives to one process of this machine, and what to Ray."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import pytest

from pipeline.matching import driver
from pipeline.matching.local_process import LocalMatching
from pipeline.matching.plan import Slice
from pipeline.matching.stages import Committed

SLICES = [Slice(file="pairs", row_group=0, rows=np.arange(n, n + 10, dtype=np.int32)) for n in range(0, 100, 10)]


def _part(work: Slice, by: str) -> Committed:
    rows = len(work.rows)
    return Committed(part=f"{by}-{work.rows[0]}", bytes=1, reasons={"ok": rows}, match_seconds=0, commit_seconds=0)


class _Local:
    """A LocalMatching that takes `seconds` for a slice, by a clock that stands still otherwise, and has one at once."""

    def __init__(self, seconds: float) -> None:
        self.waiting = deque(SLICES)
        self.now = 0.0
        self._seconds = seconds

    def parts(self, until: Callable[[], bool] = lambda: False) -> Iterator[Committed]:
        while not until():
            if not self.waiting:
                return
            work = self.waiting.popleft()
            self.now += self._seconds
            yield _part(work, "local")


def _names(
    local: _Local, monkeypatch: pytest.MonkeyPatch, stopped: threading.Event | None = None, cores: int = 2
) -> list[str]:
    monkeypatch.setattr(driver.os, "cpu_count", lambda: cores)
    monkeypatch.setattr(driver.time, "monotonic", lambda: local.now)

    def on_ray(slices: list[Slice]) -> Iterator[Committed]:
        return (_part(work, "ray") for work in slices)

    matching = cast("LocalMatching", cast("Any", local))
    parts = driver._local_parts(matching, on_ray, 100, stopped or threading.Event())
    return [part["part"] for part in parts]


def test_what_two_cores_hardly_do_faster_needs_no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the second slice 20 % are done, and the rest would take 59.2 seconds, half of that on two cores."""
    assert _names(_Local(7.4), monkeypatch) == [f"local-{n}" for n in range(0, 100, 10)]


def test_ray_gets_what_would_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest would take 60.8 seconds."""
    names = _names(_Local(7.6), monkeypatch)

    assert names == ["local-0", "local-10"] + [f"ray-{n}" for n in range(20, 100, 10)]


def test_many_cores_are_worth_a_ray_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "ray-90" in _names(_Local(5.1), monkeypatch, cores=16)
    assert "ray-90" not in _names(_Local(5.1), monkeypatch)


def test_a_slice_that_takes_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _names(_Local(60), monkeypatch) == ["local-0"] + [f"ray-{n}" for n in range(10, 100, 10)]


def test_after_a_signal_ray_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()
    stopped.set()

    assert _names(_Local(60), monkeypatch, stopped) == []
