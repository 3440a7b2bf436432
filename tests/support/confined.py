"""A property in a process of its own, which it may crash, hang or fill: bounded memory, bounded time, no side effects.

A test file calls `in_own_process(__file__, ...)` in its test, and, where it is run as a script, `check(its_property)`.
"""

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
"""Number of random examples, different at each run; 0 for the few, always equal ones of `make test`."""
_SPAWNING = ("subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn")
_watched: list[str] | None = None


def budget(examples: int) -> settings:
    """Settings of a property that tries so many examples in `make test`."""
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def in_own_process(script: str, *, megabytes: int, seconds: float, said: str = "") -> None:
    """Run a test file as a script that may take `megabytes` more than at its start, and `seconds` a 1,000 examples.

    said: a regular expression for lines that libraries may write to stderr, past Python.
    Fails for another exit code than 0, a crash, a hang, and anything else on stderr.
    """
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root}{os.pathsep}{root / 'tests/support'}", "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, script, str(megabytes)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=60 + seconds * max(1000, EXAMPLES) / 1000,
    )
    report = f"exit code {process.returncode}\n{process.stdout[-4000:]}\n{process.stderr[-4000:]}"
    assert process.returncode == 0, report
    assert not [line for line in process.stderr.splitlines() if not re.fullmatch(said, line)], report


def check(holds: Callable[[], Any]) -> None:
    """Check a property within the limits given on the command line."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    sys.addaudithook(_watch)
    holds()


@contextmanager
def no_side_effects() -> Iterator[None]:
    """Fails where a program is started or a file is opened for writing within the block."""
    global _watched
    _watched = []
    try:
        yield
        assert not _watched, _watched
    finally:
        _watched = None


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched is None:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event.startswith(_SPAWNING):
        _watched.append(f"{event} {arguments[0]!r}")
