import itertools
from collections.abc import Iterator

import pytest

from pipeline.matching import prometheus


class Recorded:
    """Takes the place of a metric and records its values."""

    def __init__(self) -> None:
        self.values: list[tuple[float, dict[str, str] | None]] = []

    def inc(self, value: float, tags: dict[str, str] | None = None) -> None:
        self.values.append((value, tags))

    observe = inc


def test_rows_are_counted_by_status_stage_and_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, size = Recorded(), Recorded()
    monkeypatch.setattr(prometheus, "_ROWS", rows)
    monkeypatch.setattr(prometheus, "_BYTES", size)

    prometheus.count_committed({"ok": 4, "match: not_finite": 2}, 99)

    assert rows.values == [
        (4, {"status": "ok", "stage": "", "kind": ""}),
        (2, {"status": "error", "stage": "match", "kind": "not_finite"}),
    ]
    assert size.values == [(99, None)]


def test_items_are_timed_without_the_time_in_which_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that advances by one second at each reading, and by a hundred between requests for an item."""
    clock, seconds = itertools.count(), Recorded()
    waited = 0

    def now() -> float:
        return next(clock) + waited

    def items() -> Iterator[str]:
        yield from "ab"

    monkeypatch.setattr(prometheus, "_SECONDS", seconds)
    monkeypatch.setattr("pipeline.matching.prometheus.time.perf_counter", now)
    got = []
    for item in prometheus.timed_items("decode", items()):
        got.append(item)
        waited += 100

    assert got == ["a", "b"]
    assert seconds.values == [(3, {"stage": "decode"})]
