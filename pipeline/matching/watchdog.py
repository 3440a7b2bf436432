"""A watchdog that ends this process when its work hangs: Ray and the quarantine handle only processes that die."""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STDERR = 2
_GRACE_SECONDS = 30.0


class Watchdog:
    """Ends the process, with all stacks on stderr, after `seconds` without a sign of life in its on_guard block.

    on_silence: called before that, in another thread.
    Where a library hangs and holds the interpreter's lock, on_silence is not called, and the process ends half a minute
    later.
    """

    def __init__(self, seconds: float, on_silence: Callable[[], None]) -> None:
        self._seconds = seconds
        self._on_silence = on_silence
        self._deadline: float | None = None
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def alive(self) -> None:
        """Give a sign of life: the time starts again."""
        self._deadline = time.monotonic() + self._seconds
        # works without the interpreter's lock
        faulthandler.dump_traceback_later(self._seconds + _GRACE_SECONDS, exit=True, file=_STDERR)

    @contextmanager
    def on_guard(self) -> Iterator[None]:
        """Watch for signs of life during the block."""
        self.alive()
        try:
            yield
        finally:
            self._deadline = None
            faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while True:
            time.sleep(min(1.0, self._seconds / 10))
            deadline = self._deadline
            if deadline is not None and time.monotonic() > deadline:
                self._on_silence()
                faulthandler.dump_traceback(file=_STDERR)
                os._exit(1)
