"""A command's stdout and stderr whose reader may be gone, as in `nemf evaluate ... | head`. Imports nothing slow."""

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

CLOSED = 128 + signal.SIGPIPE
"""Exit code of a command whose output nobody reads any more, as shells report it of other programs: 141."""


@contextmanager
def ending_quietly() -> Iterator[None]:
    """SystemExit(CLOSED) instead of a BrokenPipeError of stdout or stderr; both are flushed at the end of the block.

    Other errors of writing, such as a full disk, are raised here and not after the interpreter's end. A
    stream that the process was started without goes nowhere, and not into a file that happens to get its number.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - it stays open
    try:
        try:
            yield
        finally:
            flush()
    except BrokenPipeError:
        if not (closed := closed_streams()):
            raise
        for stream in closed:
            _discard(stream)
        raise SystemExit(CLOSED) from None


def flush() -> None:
    """Write what is buffered. Raises OSError if that fails; what could not be written is not tried again."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError:
            _discard(stream)
            raise


def closed_streams() -> list[TextIO]:
    """The streams among stdout and stderr that are pipes or sockets without a reader."""
    return [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream)]


def _is_closed(stream: TextIO) -> bool:
    poll = select.poll()
    try:
        poll.register(stream.fileno(), 0)
    except (OSError, ValueError):  # the stream is no file
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _discard(stream: TextIO) -> None:
    """Send what is still buffered, and all that follows, to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
