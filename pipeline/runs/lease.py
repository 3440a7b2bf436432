"""The lease: one attempt at a time holds a run folder and writes to it.

    <out>/attempts/<n>.json      owner, started, heartbeat (advances every few seconds), end, progress
    <out>/attempts/<n>.stop      the attempt is to stop: nothing new is started, what is in flight is committed
    <out>/attempts/<n>.begun/    the work in progress, see pipeline.runs.quarantine
    <out>/attempts/<n>.events/   event log, see pipeline.runs.events

An attempt starts by creating its file, which only one process can. An attempt whose owner died on this host is taken
over at once. Of an owner on another host only the heartbeat is known: when it stands still for STALE_SECONDS the
attempt counts as dead, when it advances the new attempt is refused. The file also holds the progress of the attempt, so
that it is known from anywhere without opening a part.
"""

import json
import os
import socket
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from pipeline.io import storage
from pipeline.runs.events import EventLog

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 30.0
RATE_SECONDS = 300.0
"""The time window in seconds over which rows_per_second is measured."""


class RunInUseError(ValueError):
    """Another attempt is running on the same run folder."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A process, identified among all: process ids are reused, so its start time and its host count too."""

    host_id: str
    """Identifies the boot and the container in which the process id is valid."""
    pid: int
    process_started: str

    @classmethod
    def this_process(cls) -> "Owner":
        """This process."""
        return cls(host_id=_host_id(), pid=os.getpid(), process_started=_process_started(os.getpid()))

    def is_here(self) -> bool:
        """Whether the process was started on this host since it booted; is_alive is known only then."""
        return self.host_id == _host_id()

    def is_alive(self) -> bool:
        """Whether the process still runs; only where is_here."""
        return self.process_started == _process_started(self.pid)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """The content of one attempt's file."""

    number: int
    owner: Owner
    started: float
    """Seconds since 1970 by the owner's clock, as are `written` and `ended`."""
    host: str = ""
    """Name of the owner's machine."""
    job: str = ""
    """Name of the command."""
    heartbeat: int = 0
    written: float = 0.0
    ended: float | None = None
    rows: int | None = None
    """Number of rows (pairs x directions) requested by this attempt or an earlier one; None while it plans."""
    settled: dict[str, int] = field(default_factory=dict)
    """Number of requested rows that earlier attempts completed, by reason ('ok', or 'stage: kind' of an error)."""
    counts: dict[str, int] = field(default_factory=dict)
    """Number of rows that this attempt committed, by reason, up to its last heartbeat."""
    rows_per_second: float | None = None
    """Rate of committed rows over the last RATE_SECONDS; None before the first."""

    @property
    def is_dead(self) -> bool:
        """Whether the attempt ended, or its process is known to be dead."""
        return self.ended is not None or (self.owner.is_here() and not self.owner.is_alive())

    def state(self, now: float) -> Literal["ended", "died", "silent", "planning", "running"]:
        """The state of the attempt at the time `now`.

        silent: it is on another machine and has not written for STALE_SECONDS: the next attempt may take over.
        """
        if self.ended is not None:
            return "ended"
        if self.owner.is_here():
            if not self.owner.is_alive():
                return "died"
        elif now - self.written > STALE_SECONDS:
            return "silent"
        return "planning" if self.rows is None else "running"

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
        self.in_progress_folder = attempt.file(out, "begun")
        self.events = EventLog(attempt.file(out, "events"), attempt.number)
        self.events.record("started", host=attempt.host, pid=attempt.owner.pid)
        self._out = out
        self.on_heartbeat: list[Callable[[], None]] = []
        """Called after each heartbeat, and before the attempt ends."""
        self._heartbeat = 0
        self.counts: Counter[str] = Counter()
        """Number of rows committed so far, by reason."""
        self._totals = deque([(time.monotonic(), 0)], maxlen=round(RATE_SECONDS / HEARTBEAT_SECONDS) + 1)
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def plan(self, rows: int, settled: Mapping[str, int]) -> None:
        """Record the number of rows requested, and the number that earlier attempts completed, by reason."""
        self.attempt = replace(self.attempt, rows=rows, settled=dict(settled))

    def count(self, reasons: Mapping[str, int]) -> None:
        """Add to the committed rows, by reason."""
        self.counts.update(reasons)

    def request_stop(self) -> None:
        """Ask the workers to start nothing new."""
        self.events.record("stop_requested")
        storage.write_bytes(self.stop_file, b"")

    def release(self) -> None:
        """End the attempt. Later calls change nothing."""
        if self._released.is_set():
            return
        self._released.set()
        self._thread.join()
        try:
            self._run_callbacks()
            storage.delete(self.in_progress_folder)
        except OSError as error:  # must not hide the error that ended the attempt
            print(f"warning: claims of work in progress were not removed: {error}")
        self.events.record("ended", counts=dict(self.counts))
        self._write(ended=time.time())

    def _renew(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            try:
                self._write()
                self._run_callbacks()
            except Exception as error:  # the next beat may succeed; the stale limit leaves room for several
                print(f"warning: heartbeat not written: {error}")

    def _run_callbacks(self) -> None:
        for call in self.on_heartbeat:
            call()

    def _write(self, ended: float | None = None) -> None:
        self._heartbeat += 1
        counts = dict(self.counts)
        now, n_rows = time.monotonic(), sum(counts.values())
        then, n_before = self._totals[0]
        self._totals.append((now, n_rows))
        current = replace(
            self.attempt,
            heartbeat=self._heartbeat,
            written=time.time(),
            ended=ended,
            counts=counts,
            rows_per_second=(n_rows - n_before) / (now - then) if n_rows else None,
        )
        storage.write_bytes(current.file(self._out), current.to_json())
        self.events.flush()


def acquire(out: str, *, job: str = "", stale_seconds: float = STALE_SECONDS) -> Lease:
    """Start the next attempt on a run folder, for the job of that name.

    Waits up to `stale_seconds`, and prints that it does, to learn whether an earlier attempt on another host is alive.
    Raises RunInUseError if one is.
    """
    while True:
        earlier = read_attempts(out)
        # the last could only start when those before it were dead
        before = _wait_until_dead(out, earlier[-1], stale_seconds) if earlier else None
        now = time.time()
        mine = Attempt(
            number=before.number + 1 if before else 1,
            owner=Owner.this_process(),
            host=socket.gethostname(),
            job=job,
            started=now,
            written=now,
        )
        if storage.write_if_absent(mine.file(out), mine.to_json()):
            lease = Lease(out, mine)
            if before and before.ended is None:
                lease.events.record("took_over", earlier=before.number, host=before.host, pid=before.owner.pid)
            return lease


def read_attempts(out: str) -> list[Attempt]:
    """The attempts of a run folder, in order."""
    return [_read(file) for file in storage.list_files(storage.join(out, "attempts"), ".json")]


def remove_stale_files(out: str) -> None:
    """Remove the remains of killed processes, unfinished files and claims of work. The caller holds the lease."""
    for folder in (out, *(storage.join(out, name) for name in ("parts", "attempts", "quarantine"))):
        storage.remove_temporary_files(folder)
    for attempt in read_attempts(out):
        storage.delete(attempt.file(out, "begun"))


def _read(file: str) -> Attempt:
    fields: dict[str, Any] = storage.read_json(file)
    return Attempt(**{**fields, "owner": Owner(**fields["owner"])})


def _wait_until_dead(out: str, attempt: Attempt, stale_seconds: float) -> Attempt:
    """The last content of a dead attempt's file. Raises RunInUseError if it is alive."""
    if attempt.is_dead:
        return attempt
    in_use = RunInUseError(
        f"{out} is in use: attempt {attempt.number} (process {attempt.owner.pid}{_on(attempt.host)}) is at work on it; "
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
            return now
        if now.heartbeat > attempt.heartbeat:
            raise in_use
    return attempt


def _on(host: str) -> str:
    return f" on {host}" if host else ""


def _host_id() -> str:
    """The host's current boot and container; the address of the network card where the system has neither."""
    boot, container = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    if not (boot.exists() and container.is_symlink()):
        return f"{uuid.getnode():012x}"
    return f"{boot.read_text().strip()} {container.readlink()}"


def _process_started(pid: int) -> str:
    """When a process started, as text to compare; empty if there is no such process."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return ""
