"""Metrics for Prometheus, through Ray: every node of the cluster exports those of its processes.

    ray_nemf_rows_total{status, stage, kind}    rows committed; stage and kind are empty where status is ok
    ray_nemf_committed_bytes_total              bytes of the parts they are in
    ray_nemf_stage_seconds{stage}               histogram: seconds of work on a slice or chunk at the stages decode
                                                (with fetching), match and commit

A process that matches does one chunk at a time, so the rate of its `ray_nemf_stage_seconds_sum{stage="match"}` is the
share of the time that it, and its GPU, is busy.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from ray.util.metrics import Counter, Histogram

Item = TypeVar("Item")

_ROWS = Counter("nemf_rows", "Rows committed.", tag_keys=("status", "stage", "kind"))
_BYTES = Counter("nemf_committed_bytes", "Bytes of committed parts.")
_SECONDS = Histogram(
    "nemf_stage_seconds",
    "Seconds of work at a stage.",
    boundaries=[0.01, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000],
    tag_keys=("stage",),
)


def count_committed(reasons: Mapping[str, int], n_bytes: int) -> None:
    """Count the rows of a part, by reason ('ok', or 'stage: kind' of an error), and its bytes."""
    for reason, rows in reasons.items():
        stage, _, kind = ("", "", "") if reason == "ok" else reason.partition(": ")
        _ROWS.inc(rows, tags={"status": "error" if stage else "ok", "stage": stage, "kind": kind})
    if n_bytes:
        _BYTES.inc(n_bytes)


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Time the block as work at `stage`."""
    start = time.perf_counter()
    yield
    _SECONDS.observe(time.perf_counter() - start, tags={"stage": stage})


def timed_items(stage: str, items: Iterable[Item]) -> Iterator[Item]:
    """`items`, timed as work at `stage`: the time to produce them all, without that between two requests for one."""
    seconds = 0.0
    source = iter(items)
    while True:
        start = time.perf_counter()
        try:
            item = next(source)
        except StopIteration:
            _SECONDS.observe(seconds + time.perf_counter() - start, tags={"stage": stage})
            return
        seconds += time.perf_counter() - start
        yield item
