"""One writer at a time: the lease an attempt holds on its run folder.

    <out>/attempts/<n>-<id>.json    owner, started, heartbeat (renewed every few seconds), ended, counts
    <out>/attempts/<n>-<id>.stop    the attempt was asked to stop: nothing new is begun, what is in flight commits

An attempt whose owner died on this host is taken over at once. Of an owner elsewhere only the heartbeat can be seen:
when it stands still for STALE_SECONDS the attempt counts as dead, when it advances the run is refused.
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
    """A process, told apart from every other: process ids are reused, so its start time and the boot count too."""

    boot_id: str
    pid: int
    process_started: str

    @classmethod
    def this_process(cls) -> "Owner":
        """The owner that this process is."""
        return cls(boot_id=_boot_id(), pid=os.getpid(), process_started=_process_started(os.getpid()))

    def is_here(self) -> bool:
        """Whether the owner runs, or ran, on this host since it booted: then is_alive is known."""
        return self.boot_id == _boot_id()

    def is_alive(self) -> bool:
        """Whether the owner's process still runs; only where is_here."""
        return self.process_started == _process_started(self.pid)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What one attempt's file says."""

    number: int
    id: str
    owner: Owner
    started: float
    heartbeat: int
    ended: float | None = None
    counts: dict[str, int] | None = None

    @property
    def name(self) -> str:
        """File name without its ending; attempts sort by it."""
        return f"{self.number:05d}-{self.id}"


class Lease:
    """An attempt that holds its run folder, renewing its heartbeat in the background until it is released."""

    def __init__(self, out: str, attempt: Attempt) -> None:
        self.attempt = attempt
        self.stop_file = storage.join(out, "attempts", f"{attempt.name}.stop")
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
        self.attempt = replace(self.attempt, ended=time.time(), counts=counts)
        _write(self._out, self.attempt)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            self.attempt = replace(self.attempt, heartbeat=self.attempt.heartbeat + 1)
            try:
                _write(self._out, self.attempt)
            except OSError as error:  # the next beat may succeed; the stale limit leaves room for several
                print(f"warning: heartbeat not written: {error}")


def acquire(out: str, *, stale_seconds: float = STALE_SECONDS) -> Lease:
    """Begin the next attempt on a run folder.

    Waits, saying so, while it cannot tell whether an earlier attempt is alive. Raises RunInUseError if one is.
    """
    while True:
        earlier = read_attempts(out)
        _wait_until_dead(out, earlier, stale_seconds)
        attempt = Attempt(
            number=max((a.number for a in earlier), default=0) + 1,
            id=uuid.uuid4().hex[:8],
            owner=Owner.this_process(),
            started=time.time(),
            heartbeat=0,
        )
        _write(out, attempt)
        # Two that began at the same moment both see both files: the first by name stays, the other gives way.
        rivals = [
            a for a in read_attempts(out) if a.number >= attempt.number and a.name < attempt.name and not _dead(a)
        ]
        if not rivals:
            return Lease(out, attempt)
        _write(out, replace(attempt, ended=time.time()))


def read_attempts(out: str) -> list[Attempt]:
    """The attempts of a run folder, in order."""
    attempts = []
    for file in storage.list_files(storage.join(out, "attempts"), ".json"):
        fields: dict[str, Any] = json.loads(storage.read_bytes(file))
        attempts.append(Attempt(**{**fields, "owner": Owner(**fields["owner"])}))
    return attempts


def _dead(attempt: Attempt) -> bool:
    return attempt.ended is not None or (attempt.owner.is_here() and not attempt.owner.is_alive())


def _wait_until_dead(out: str, attempts: list[Attempt], stale_seconds: float) -> None:
    for attempt in attempts:
        if _dead(attempt):
            continue
        if attempt.owner.is_here():
            raise RunInUseError(_in_use(out, attempt))
        print(f"{out}: attempt {attempt.name} may still run on another machine; waiting {stale_seconds:.0f} s to see")
        last = time.monotonic() + stale_seconds
        while time.monotonic() < last:
            time.sleep(min(1.0, stale_seconds / 10))
            now = next((a for a in read_attempts(out) if a.name == attempt.name), attempt)
            if now.ended is not None:
                break
            if now.heartbeat > attempt.heartbeat:
                raise RunInUseError(_in_use(out, attempt))


def _in_use(out: str, attempt: Attempt) -> str:
    return (
        f"{out} is in use: attempt {attempt.name} (process {attempt.owner.pid}) is at work on it; "
        "wait for it, stop it, or give another --out"
    )


def _write(out: str, attempt: Attempt) -> None:
    data = json.dumps(asdict(attempt), indent=2).encode()
    storage.write_bytes(storage.join(out, "attempts", f"{attempt.name}.json"), data)


def _boot_id() -> str:
    """An id of this host's current boot; where the system tells none, of its network card and name."""
    file = Path("/proc/sys/kernel/random/boot_id")
    return file.read_text().strip() if file.exists() else f"{uuid.getnode():012x}"


def _process_started(pid: int) -> str:
    """When a process started, in the system's own terms; empty if there is no such process."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
