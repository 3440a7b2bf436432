import threading
from collections.abc import Iterator

import pytest

from pipeline.io.prefetch import prefetch


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_come_in_order_whichever_is_ready_first(threads: int):
    """Odd steps wait for the step behind them, where there are threads to make it."""
    ready = [threading.Event() for _ in range(21)]

    def prepare(step: int) -> str:
        if threads > 1 and step % 2:
            assert ready[step + 1].wait(30)
        ready[step].set()
        return f"batch {step}"

    assert list(prefetch(prepare, range(21), threads)) == [f"batch {step}" for step in range(21)]


def test_no_more_than_twice_as_many_as_threads_lie_ready():
    begun: list[int] = []

    def steps() -> Iterator[int]:
        for step in range(8):
            begun.append(step)
            yield step

    batches = prefetch(lambda step: step, steps(), 2)
    assert [(step, len(begun) - 1 - step) for step in batches] == [
        *((step, 4) for step in range(4)),
        (4, 3),
        (5, 2),
        (6, 1),
        (7, 0),
    ]


def test_what_goes_wrong_is_raised_at_its_turn():
    def prepare(step: int) -> int:
        if step == 3:
            raise ValueError("no batch 3")
        return step

    batches = prefetch(prepare, range(10), 2)
    assert [next(batches) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="no batch 3"):
        next(batches)
    assert list(batches) == []


def test_no_steps_are_no_batches():
    assert list(prefetch(lambda step: step, range(5, 5), 1)) == []
