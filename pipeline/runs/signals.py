"""Signals stop an attempt gracefully: work in flight is finished and committed."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.runs.lease import Lease


@contextmanager
def stopping_on_signals(lease: Lease) -> Iterator[threading.Event]:
    """SIGTERM or SIGINT asks the lease's attempt to stop and sets the event; a second one ends the job at once."""
    stopped = threading.Event()

    def stop(number: int, _frame: object) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()
        print(
            f"\n{signal.Signals(number).name}: finishing what is in flight; once more to stop at once", file=sys.stderr
        )
        lease.request_stop()

    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    earlier = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
