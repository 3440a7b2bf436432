"""Asking a store again: faults that may pass are waited out, longer each time; all others are raised at once."""

import hashlib
import time
from collections.abc import Callable
from typing import TypeVar

from nemf.io.store_errors import PASSING, reason

TRIES = 7
FIRST_WAIT_SECONDS = 0.25
"""About how long the first wait is; each is about twice the one before: 16 s in all."""

Answer = TypeVar("Answer")


def retried(uri: str, ask: Callable[[], Answer], *, until: float) -> Answer:
    """What `ask` returns, asked at most TRIES times; what it raises the last time if that does not pass.

    until: when, on time.monotonic's clock, to give up.
    """
    for number in range(TRIES):
        try:
            return ask()
        except Exception as error:  # every file system has exceptions of its own
            wait = wait_seconds(uri, number)
            too_late = time.monotonic() + wait >= until
            if number == TRIES - 1 or too_late or reason(error) not in PASSING:
                raise
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def wait_seconds(uri: str, number: int) -> float:
    """How long to wait after try `number` (from 0) for `uri`: the same every time, and spread over the files."""
    spread = int.from_bytes(hashlib.sha256(f"{uri} {number}".encode()).digest()[:4]) / 2**32
    return FIRST_WAIT_SECONDS * 2**number * (0.5 + spread)
