"""Batches prepared ahead, in threads, and given in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Batch = TypeVar("Batch")


def prefetch(prepare: Callable[[int], Batch], steps: Iterable[int], threads: int) -> Iterator[Batch]:
    """prepare(step) of each step in order; up to 2 * threads of them lie ready or are being made.

    What `prepare` raises is raised here, where its turn comes.
    """
    pool = ThreadPoolExecutor(threads)
    ahead: deque[Future[Batch]] = deque()
    try:
        for step in steps:
            ahead.append(pool.submit(prepare, step))
            if len(ahead) > 2 * threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
