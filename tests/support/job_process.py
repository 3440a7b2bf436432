"""jobs.match as a process of its own, to be watched and killed."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from command import start_job

from pipeline.runs.parts import list_parts

MATCHER = ("--matcher", "slow_matcher:SlowMatcher")
LOCAL = "pipeline.matching.local_worker"
"""In the command of a process that matches without Ray."""


class MatchProcess:
    """`python -m jobs.match` with SlowMatcher, on a Ray of its own or without Ray, its output in a file."""

    def __init__(self, *arguments: str, log: Path, on_ray: bool = True, **environment: str) -> None:
        self.log = log
        address = ["--address", "local"] if on_ray else []
        self._process = start_job("match", [*address, *MATCHER, *arguments], log, log, environment=environment)

    def wait(self, seconds: float = 180) -> int:
        """The exit code, once every process it started is gone too."""
        children = self._children()
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"still running after {seconds} s:\n{self.log.read_text()}"
        psutil.wait_procs(children, timeout=30)
        return self._process.exitcode

    def workers(self) -> list[psutil.Process]:
        """The processes that currently match: without Ray the copies of the one that loaded the matcher, if there are
        any."""
        found = self.processes(lambda command: "MatchWorker" in command or LOCAL in command)
        parents = {_parent(worker) for worker in found}
        return [worker for worker in found if worker.pid not in parents]

    def processes(self, wanted: Callable[[str], bool]) -> list[psutil.Process]:
        """The job's current child processes whose command line matches."""
        return [child for child in self._children() if wanted(" ".join(_command(child)))]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the driver alone."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def kill_driver(self) -> None:
        """SIGKILL, and wait until the processes that worked for it have noticed."""
        workers = self.processes(lambda command: ("ray::" in command and "Agent" not in command) or LOCAL in command)
        self._process.kill()
        self._process.join(30)
        _, alive = psutil.wait_procs(workers, timeout=60)
        assert not alive, f"still running after the driver was killed: {alive}"

    def wait_for(self, condition: Callable[[], object], seconds: float = 120) -> None:
        """Wait until something holds while the job runs."""
        assert self.wait_until(condition, seconds), f"the job ended early:\n{self.log.read_text()}"

    def wait_until(self, condition: Callable[[], object], seconds: float = 120) -> bool:
        """Wait until something holds or the job ends; whether it holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if not self._process.is_alive():
                return False
            assert time.monotonic() < deadline, f"waited {seconds} s in vain:\n{self.log.read_text()}"
            time.sleep(0.05)
        return True

    def wait_for_parts(self, out: Path, n_parts: int) -> None:
        """Wait until `n_parts` are committed."""
        self.wait_for(lambda: len(list_parts(str(out))) >= n_parts)

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []


def _parent(process: psutil.Process) -> int | None:
    try:
        return process.ppid()
    except psutil.Error:
        return None


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
