"""Processes of this machine that hold the matcher of a job, without Ray: there seconds before a Ray would be.

Where it can be, the first one is copied for each that matches: a copy is there at once, and shares its memory.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import send_handle
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fsspec

from pipeline.cluster.errors import ClusterError
from pipeline.matching.local_worker import Copy, MatcherFacts, Setup, WaitFor
from pipeline.matching.options import MatchConfig
from pipeline.matching.plan import Slice
from pipeline.matching.stages import StageConfig

_PROGRAM = "import sys; from pipeline.matching.local_worker import main; main(int(sys.argv[1]))"


class MatcherProcess:
    """A process that loads the matcher from the start, is then given slices, and ends with the `with` block.

    device: cpu, cuda, cuda:N, or auto for a GPU where there is one.
    """

    def __init__(self, matching: MatchConfig, device: str) -> None:
        self._setup = Setup(matching=matching, device=device, storage_options=dict(fsspec.config.conf))
        self._facts: MatcherFacts | None = None
        self.connection: Connection
        """Readable where there is something to receive, be it the end of the process."""
        self.connection, theirs = Pipe()
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

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def another(self, device: str | None = None) -> "MatcherProcess":
        """One more process for the same matcher, on the same device or another one: a copy where there can be one."""
        if device is None and self.facts().can_be_copied:
            with suppress(EOFError, OSError):  # it has died itself
                return _CopiedProcess(self, self._setup, self.facts())
        return MatcherProcess(self._setup.matching, device or self._setup.device)

    def is_loaded(self, seconds: float) -> bool:
        """Whether the matcher is loaded, or could not be, within that time from now."""
        return self._facts is not None or self.connection.poll(seconds)

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

    def send(self, message: Setup | Copy | WaitFor | StageConfig | Slice) -> None:
        """Send it; nothing is said of a process that is dead, whose end is seen by receiving."""
        with suppress(OSError):
            self.connection.send(message)

    def receive(self) -> Any:
        """The next message. Raises what was sent as an exception, and EOFError where the process has ended."""
        try:
            message = self.connection.recv()
        except OSError as error:  # it may end in the middle of a message
            raise EOFError from error
        if isinstance(message, Exception):
            raise message
        return message

    def ending(self) -> str:
        """How the process ended, for people; waits for its end, and ends those that its matcher began."""
        if self._process.returncode is None:
            with suppress(ChildProcessError):  # whoever ignores SIGCHLD finds it gone, and its id perhaps another's
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
                self._end_group()
        return _ending(self._process.wait())

    def close(self) -> None:
        """End the process, and those that its matcher began. Later calls change nothing."""
        self.connection.close()
        if self._process.returncode is None:
            self._end_group()

    def _end_group(self) -> None:
        """End the process and what its matcher began, before the id may be of another process."""
        with suppress(OSError):  # all of them are dead
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def copy_to(self, theirs: Connection) -> int:
        """The id of a copy of the process, which serves that connection. Raises EOFError or OSError where the process
        has died."""
        self.send(Copy())
        send_handle(self.connection, theirs.fileno(), self._process.pid)
        return int(self.receive())

    def exit_code_of(self, copy_pid: int) -> int:
        """The exit code of a copy, once it has ended. Raises EOFError where the process itself has died."""
        self.send(WaitFor(copy_pid))
        return int(self.receive())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class _CopiedProcess(MatcherProcess):
    """A copy of a process whose matcher is loaded."""

    def __init__(self, original: MatcherProcess, setup: Setup, facts: MatcherFacts) -> None:
        self._original = original
        self._setup = setup
        self._facts = facts
        self.connection, theirs = Pipe()
        with theirs:
            self._pid = original.copy_to(theirs)
        self._exit_code: int | None = None

    @property
    def pid(self) -> int:
        return self._pid

    def another(self, device: str | None = None) -> MatcherProcess:
        return self._original.another(device)

    def ending(self) -> str:
        try:
            return _ending(self._wait())
        except EOFError:
            return "an end that is not known"

    def close(self) -> None:
        self.connection.close()
        if self._exit_code is None:
            with suppress(EOFError, OSError):
                os.killpg(self._pid, signal.SIGKILL)
                self._wait()

    def _wait(self) -> int:
        if self._exit_code is None:
            self._exit_code = self._original.exit_code_of(self._pid)
        return self._exit_code


def _ending(exit_code: int) -> str:
    return f"signal {-exit_code}" if exit_code < 0 else f"exit code {exit_code}"
