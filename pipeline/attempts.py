"""One writer at a time: the lease an attempt holds on its run folder.

    <out>/attempts/<n>.json      owner, started, heartbeat (advances every few seconds), ended, counts
    <out>/attempts/<n>.stop      the attempt was asked to stop: nothing new is begun, what is in flight commits
    <out>/attempts/<n>.begun/    what its workers have in hand, see pipeline.quarantine

An attempt begins by creating its file, which only one process can. An attempt whose owner died on this host is taken
over at once. Of an owner elsewhere only the heartbeat can be seen: when it stands still for STALE_SECONDS the attempt
counts as dead, when it advances the new one is refused.
"""

import json
import os
import threading
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from pipeline import storage

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0


class RunInUseError(ValueError):
    """Another attempt is at work on the same run folder."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process, told apart from every other: process ids are reused, so its start time and its host count too."""

    host_id: str
    """Changes with every boot, and from container to container: where the process id means something."""
    pid: int
    process_started: str

    @classmethod
    def this_process(cls) -> "Owner":
        """The owner that this process is."""
        return cls(host_id=_host_id(), pid=os.getpid(), process_started=_process_started(os.getpid()))

    def is_here(self) -> bool:
        """Whether the owner runs, or ran, on this host since it booted: then is_alive is known."""
        return self.host_id == _host_id()

    def is_alive(self) -> bool:
        """Whether the owner's process still runs; only where is_here."""
        return self.process_started == _process_started(self.pid)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What one attempt's file says."""

    number: int
    owner: Owner
    started: float
    heartbeat: int = 0
    ended: float | None = None
    counts: dict[str, int] | None = None

    @property
    def is_dead(self) -> bool:
        """Whether it ended, or its process is known to have."""
        return self.ended is not None or (self.owner.is_here() and not self.owner.is_alive())

    def file(self, out: str, suffix: str = "json") -> str:
        """URI of the attempt's file in the run folder."""
        return storage.join(out, "attempts", f"{self.number:05d}.{suffix}")

    def to_json(self) -> bytes:
        """The content of the attempt's file."""
        return json.dumps(asdict(self), indent=2).encode()


class Lease:
    """An attempt that holds its run folder, renewing its heartbeat in the background until it is released."""

    def __init__(self, out: str, attempt: Attempt) -> None:
        self.attempt = attempt
        self.stop_file = attempt.file(out, "stop")
        self.begun_folder = attempt.file(out, "begun")
        self._out = out
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Have the workers begin nothing new."""
        storage.write_bytes(self.stop_file, b"")

    def release(self, counts: dict[str, int]) -> None:
        """End the attempt, recording its counts. Later calls change nothing."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        storage.delete(self.begun_folder)
        self.attempt = replace(self.attempt, ended=time.time(), counts=counts)
        self._write()

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            self.attempt = replace(self.attempt, heartbeat=self.attempt.heartbeat + 1)
            try:
                self._write()
            except OSError as error:  # the next beat may succeed; the stale limit leaves room for several
                print(f"warning: heartbeat not written: {error}")

    def _write(self) -> None:
        storage.write_bytes(self.attempt.file(self._out), self.attempt.to_json())


def acquire(out: str, *, stale_seconds: float = STALE_SECONDS) -> Lease:
    """Begin the next attempt on a run folder.

    Waits, saying so, while it cannot tell whether an earlier attempt is alive. Raises RunInUseError if one is.
    """
    while True:
        earlier = read_attempts(out)
        if earlier:  # the last could only begin when those before it were dead
            _wait_until_dead(out, earlier[-1], stale_seconds)
        mine = Attempt(number=earlier[-1].number + 1 if earlier else 1, owner=Owner.this_process(), started=time.time())
        if storage.create_bytes(mine.file(out), mine.to_json()):
            return Lease(out, mine)


def read_attempts(out: str) -> list[Attempt]:
    """The attempts of a run folder, in order."""
    return [_read(file) for file in storage.list_files(storage.join(out, "attempts"), ".json")]


def _read(file: str) -> Attempt:
    fields: dict[str, Any] = storage.read_json(file)
    return Attempt(**{**fields, "owner": Owner(**fields["owner"])})


def _wait_until_dead(out: str, attempt: Attempt, stale_seconds: float) -> None:
    if attempt.is_dead:
        return
    in_use = RunInUseError(
        f"{out} is in use: attempt {attempt.number} (process {attempt.owner.pid}) is at work on it; "
        "wait for it, stop it, or give another --out"
    )
    if attempt.owner.is_here():
        raise in_use
    print(f"{out}: attempt {attempt.number} may still run on another machine; waiting {stale_seconds:g} s to see")
    last = time.monotonic() + stale_seconds
    while time.monotonic() < last:
        time.sleep(min(1.0, stale_seconds / 10))
        now = _read(attempt.file(out))
        if now.ended is not None:
            return
        if now.heartbeat > attempt.heartbeat:
            raise in_use


def _host_id() -> str:
    """The host's current boot and, within it, the container; where the system tells neither, the network card."""
    boot, container = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not (boot.exists() and container.is_symlink()):
        return f"{uuid.getnode():012x}"
    return f"{boot.read_text().strip()} {container.readlink()}"


def _process_started(pid: int) -> str:
    """When a process started, in the system's own terms; empty if there is no such process."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
