"""The event log of an attempt, one JSON object a line.

    <out>/attempts/<n>.events/<segment>.jsonl    in order; pandas.read_json(segment, lines=True) reads one

Object storage cannot append, so a segment is rewritten whole whenever there are new events (with every heartbeat),
until it has SEGMENT_BYTES and the next begins. An attempt that is killed loses the events since its last heartbeat.
Only the process that holds the run folder writes; nothing in an event is a URI or a setting of the run.

Every event has `timestamp` (UTC; pandas parses a column of that name as a date), `attempt` and `event`, and by its name

    started             host, pid
    took_over           earlier (the number of an attempt that never ended), its host and pid
    planned             rows (requested so far), settled (rows completed before, by reason), slices
    committed           part, bytes, rows, reasons, seconds (of matching, of committing)
    worker_died         on Ray: work (its stage, and a hash of its pairs); else ending (as 'signal 9'), pairs (it had)
    quarantined         pair_id, reason
    stop_requested
    counted             ok, errors, over_error_budget
    compacted           parts_before, parts, superseded (rows dropped)
    ended               counts
"""

import json
import threading
from datetime import UTC, datetime
from typing import Any

from pipeline.io import storage

SEGMENT_BYTES = 2**20


class EventLog:
    """The events of one attempt: `record` may be called from any thread, `flush` from one at a time."""

    def __init__(self, folder: str, attempt: int) -> None:
        self._folder = folder
        self._attempt = attempt
        self._segment = 1
        self._lines: list[bytes] = []
        self._n_written = 0
        self._lock = threading.RLock()  # re-entrant: a signal handler records in the thread that it interrupts

    def record(self, event: str, **details: Any) -> None:
        """Add an event; the next `flush` writes it."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"timestamp": now, "attempt": self._attempt, "event": event, **details})
        with self._lock:
            self._lines.append(line.encode() + b"\n")

    def flush(self) -> None:
        """Write the events recorded so far. Raises OSError; the next call then writes them."""
        with self._lock:
            lines = list(self._lines)
        if len(lines) == self._n_written:
            return
        data = b"".join(lines)
        storage.write_bytes(storage.join(self._folder, f"{self._segment:05d}.jsonl"), data)
        self._n_written = len(lines)
        if len(data) >= SEGMENT_BYTES:
            with self._lock:
                del self._lines[: len(lines)]
            self._segment, self._n_written = self._segment + 1, 0


def read_events(folder: str) -> list[dict[str, Any]]:
    """The events of one attempt, in order; none if it has no log."""
    segments = map(storage.read_bytes, storage.list_files(folder, ".jsonl"))
    return [json.loads(line) for segment in segments for line in segment.splitlines()]
