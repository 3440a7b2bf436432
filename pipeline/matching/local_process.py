"""Matching on this machine without Ray, in one process that holds the matcher.

It is there seconds before a Ray would be, and few pairs need no more. The process is apart from the driver's, since a
pair may kill it: then it is started again, and what it was at is matched pair by pair, alone, until the quarantine
leaves out the pair at fault.
"""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fsspec

from pipeline.cluster.errors import ClusterError
from pipeline.matching.local_worker import MatcherFacts, Setup, SliceDone
from pipeline.matching.options import MatchConfig
from pipeline.matching.plan import Slice
from pipeline.matching.stages import Committed, StageConfig

_PROGRAM = "import sys; from pipeline.matching.local_worker import main; main(int(sys.argv[1]))"
_SLICES_AHEAD = 1
"""Slices given to the process beyond the one that it matches: their images are decoded meanwhile."""
_FIRST_PAIRS = 32
"""Pairs of the first slice that are given at once: results come soon, and how long the rest will take is known."""
_POLL_SECONDS = 0.2


class MatcherProcess:
    """A process that holds the matcher of a job: loads it from the start, and ends with the `with` block."""

    def __init__(self, matching: MatchConfig, device: str) -> None:
        self._setup = Setup(matching=matching, device=device, storage_options=dict(fsspec.config.conf))
        self._start()

    def start_again(self) -> None:
        """Start another in its place."""
        self.close()
        self._start()

    def _start(self) -> None:
        self._facts: MatcherFacts | None = None
        self._connection, theirs = Pipe()
        path = [folder or str(Path.cwd()) for folder in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _PROGRAM, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,  # Ctrl-C in a terminal is for the driver, which lets it finish what is in flight
        )
        theirs.close()
        self.send(self._setup)

    def is_loaded(self, seconds: float) -> bool:
        """Whether the matcher is loaded, or could not be, within that time from now."""
        return self._facts is not None or self._connection.poll(seconds)

    def facts(self) -> MatcherFacts:
        """What is known of the matcher once it is loaded.

        Raises the ValueError or OSError of a matcher that cannot be loaded, and ClusterError where the process died.
        """
        if self._facts is None:
            try:
                self._facts = self.receive()
            except EOFError:
                raise ClusterError(f"the process that loads the matcher ended: {self.ending()}") from None
        return self._facts

    def send(self, message: Setup | StageConfig | Slice) -> None:
        """Send it; nothing is said of a process that is dead, whose end is seen by receiving."""
        with suppress(OSError):
            self._connection.send(message)

    def has_message(self, seconds: float) -> bool:
        """Whether there is something to receive within that time, be it the end of the process."""
        return self._connection.poll(seconds)

    def receive(self) -> Any:
        """The next message. Raises what was sent as an exception, and EOFError where the process has ended."""
        try:
            message = self._connection.recv()
        except ConnectionError as error:
            raise EOFError from error
        if isinstance(message, Exception):
            raise message
        return message

    def ending(self) -> str:
        """How the process ended, for people."""
        code = self._process.wait()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """End the process. Later calls change nothing."""
        self._connection.close()
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass
class _Given:
    """A slice that the process has."""

    work: Slice
    is_alone: bool
    """Whether nothing else may be with the process meanwhile: it died when it had this pair."""
    n_committed: int = 0
    """Rows of the slice in committed parts."""


class LocalMatching:
    """Slices that are matched by a MatcherProcess, as far as nobody else takes them."""

    def __init__(self, process: MatcherProcess, slices: list[Slice], config: StageConfig) -> None:
        self.waiting = deque([*_cut(slices[0], _FIRST_PAIRS), *slices[1:]])
        """The slices that the process was not given."""
        self._process = process
        self._config = config
        self._suspects: deque[Slice] = deque()
        self._given: deque[_Given] = deque()
        process.facts()
        process.send(config)

    def parts(self, until: Callable[[], bool] = lambda: False) -> Iterator[Committed]:
        """The parts as they are committed, until `until()` or until nothing is left.

        Raises what the stages raise, and ClusterError where the process cannot be started again.
        """
        while not until():
            self._give()
            if not self._given:
                return
            if not self._process.has_message(_POLL_SECONDS):
                continue
            try:
                message = self._process.receive()
            except EOFError:
                self._start_again()
                continue
            if isinstance(message, SliceDone):
                self._given.popleft()
            else:
                self._given[0].n_committed += sum(message["reasons"].values())
                yield message

    def _give(self) -> None:
        """Give the process what it may have beside the work that it has."""
        while self._suspects or self.waiting:
            is_alone = bool(self._suspects)
            if self._given and (is_alone or self._given[0].is_alone or len(self._given) > _SLICES_AHEAD):
                return
            work = (self._suspects or self.waiting).popleft()
            self._given.append(_Given(work, is_alone))
            self._process.send(work)

    def _start_again(self) -> None:
        """After the death of the process: what it was at becomes pairs to match alone, the rest waits again."""
        first, *others = self._given
        self._given.clear()
        self.waiting.extendleft(given.work for given in reversed(others))
        n_pairs = first.n_committed // len(self._config.matching.options.directions)
        left = replace(first.work, rows=first.work.rows[n_pairs:])
        self._suspects.extendleft(reversed(_cut(left, 1)))
        self._process.start_again()
        self._process.facts()
        self._process.send(self._config)


def _cut(work: Slice, n_pairs: int) -> list[Slice]:
    """The slice in slices of so many pairs."""
    return [replace(work, rows=work.rows[first : first + n_pairs]) for first in range(0, len(work.rows), n_pairs)]
