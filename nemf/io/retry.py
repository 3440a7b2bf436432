"""Retrying calls to a store: transient errors are waited out, longer each time; all others are raised at once."""

import hashlib
import time
from collections.abc import Callable
from typing import TypeVar

from nemf.io.store_errors import TRANSIENT, reason

TRIES = 7
FIRST_WAIT_SECONDS = 0.25
"""Mean seconds of the first wait; each wait is about twice the one before: 16 s in all."""

Result = TypeVar("Result")


def retry(uri: str, operation: Callable[[], Result], *, until: float) -> Result:
    """The result of `operation()`, called at most TRIES times; raises its last error, or its first one not TRANSIENT.

    until: time on time.monotonic's clock after which no further try begins.
    """
    for number in range(TRIES):
        try:
            return operation()
        except Exception as error:  # every file system has exceptions of its own
            wait = wait_seconds(uri, number)
            too_late = time.monotonic() + wait >= until
            if number == TRIES - 1 or too_late or reason(error) not in TRANSIENT:
                raise
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def wait_seconds(uri: str, number: int) -> float:
    """Seconds to wait after try `number` (from 0) for `uri`: a function of the two, jittered between files."""
    jitter = int.from_bytes(hashlib.sha256(f"{uri} {number}".encode()).digest()[:4]) / 2**32
    return FIRST_WAIT_SECONDS * 2**number * (0.5 + jitter)
