"""The status of a run, from the files of its attempts: no part is opened, and Ray is not needed.

Reads run.json, _SUCCESS, the attempts' files, the quarantine, and one listing of the parts: some dozens of
requests whatever the number of pairs. The numbers of an attempt are as old as its last heartbeat.
"""

import time
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.io import storage
from pipeline.runs.folder import crop_note, read_run
from pipeline.runs.lease import Attempt, read_attempts
from pipeline.runs.parts import part_sizes


@dataclass(frozen=True, kw_only=True)
class AttemptStatus:
    """One attempt, as of now."""

    number: int
    job: str
    state: str
    """State of the attempt: ended, died, silent (on another machine, no heartbeat for long), planning or running."""
    host: str
    pid: int
    started: float
    """Seconds since 1970, as is `ended`."""
    ended: float | None
    heartbeat_age_seconds: float
    counts: dict[str, int]
    """Number of rows that the attempt committed, by reason."""


@dataclass(frozen=True, kw_only=True)
class Status:
    """A run, as of now. Rows are pairs x directions."""

    out: str
    state: str
    """State of the run: finished, or the state of its last attempt; 'ended' means stopped before it was finished."""
    matcher: str
    directions: tuple[str, ...]
    points: str
    """The points that are asked, as --points says."""
    crop: str
    """What the images were cropped to before they were matched: none or boxes."""
    fingerprint: str
    versions: dict[str, str]
    attempts: list[AttemptStatus] = field(default_factory=list)
    rows: int | None
    """Number of rows requested; None if no attempt has planned yet."""
    reasons: dict[str, int]
    """Number of completed rows by reason: 'ok', or 'stage: kind' of an error."""
    rows_per_second: float | None
    """Rate over the last minutes, while an attempt is running."""
    seconds_left: float | None
    quarantined: int
    parts: int
    bytes: int

    @property
    def completed(self) -> int:
        """Number of completed rows, ok or error."""
        return sum(self.reasons.values())

    def to_json(self) -> dict[str, Any]:
        """The status as plain JSON values."""
        return asdict(self)


def read_status(out: str) -> Status:
    """The status of the run in the folder `out`. Raises FileNotFoundError if it is no run folder."""
    now = time.time()
    run = read_run(out)
    success = run.success()
    attempts = read_attempts(out)
    sizes = part_sizes(out)
    rows, reasons = _progress(success, attempts)
    last = attempts[-1] if attempts else None
    state = last.state(now) if last else "planning"
    rate = last.rows_per_second if last and state == "running" else None
    left = rows - sum(reasons.values()) if rows is not None else None
    return Status(
        out=out,
        state="finished" if success and state not in ("planning", "running") else state,
        matcher=run.config["matcher"],
        directions=run.directions,
        points=run.points,
        crop=run.crop,
        fingerprint=run.fingerprint,
        versions=run.versions,
        attempts=[_status_of(attempt, now) for attempt in attempts],
        rows=rows,
        reasons=reasons,
        rows_per_second=rate,
        seconds_left=left / rate if left is not None and rate else None,
        quarantined=len(storage.list_files(storage.join(out, "quarantine"), ".json")),
        parts=len(sizes),
        bytes=sum(sizes.values()),
    )


def _progress(success: dict[str, Any] | None, attempts: list[Attempt]) -> tuple[int | None, dict[str, int]]:
    """(number of rows requested, completed rows by reason), from _SUCCESS, otherwise from the attempts that planned."""
    if success:
        return sum(success["reasons"].values()), success["reasons"]
    planned = [attempt for attempt in attempts if attempt.rows is not None]
    if not planned:
        return None, {}
    names = sorted(planned[-1].settled.keys() | planned[-1].counts.keys())
    return max(attempt.rows or 0 for attempt in planned), {
        name: planned[-1].settled.get(name, 0) + planned[-1].counts.get(name, 0) for name in names
    }


def _status_of(attempt: Attempt, now: float) -> AttemptStatus:
    return AttemptStatus(
        number=attempt.number,
        job=attempt.job,
        state=attempt.state(now),
        host=attempt.host,
        pid=attempt.owner.pid,
        started=attempt.started,
        ended=attempt.ended,
        heartbeat_age_seconds=max(0.0, now - attempt.written),
        counts=attempt.counts,
    )


def as_text(status: Status) -> str:
    """A status as lines of text."""
    unit = "pairs" if len(status.directions) == 1 else "rows"
    lines = [
        f"{status.out}: {_STATES.get(status.state, status.state)}",
        f"matcher {status.matcher}, {', '.join(status.directions)}, points {status.points}{crop_note(status.crop)}, "
        f"run fingerprint {status.fingerprint}",
        "made with " + ", ".join(f"{name} {version}" for name, version in status.versions.items()),
    ]
    lines += [_attempt_line(attempt) for attempt in status.attempts]
    if status.rows is None:
        lines.append("not planned yet")
    else:
        share = 100 * status.completed / max(1, status.rows)
        lines.append(
            f"{status.completed} of {status.rows} {unit} done ({share:.1f} %), {status.reasons.get('ok', 0)} ok"
        )
    lines += [f"  {n:>8}  {reason}" for reason, n in status.reasons.items() if reason != "ok"]
    if status.rows_per_second is not None:
        left = "" if status.seconds_left is None else f", {_duration(status.seconds_left)} left at that rate"
        lines.append(f"{status.rows_per_second:.1f} {unit}/s over the last minutes{left}")
    if status.quarantined:
        lines.append(f"{status.quarantined} pairs in quarantine: {storage.join(status.out, 'quarantine')}")
    lines.append(f"{status.parts} parts, {status.bytes / 2**20:.1f} MB")
    return "\n".join(lines)


_STATES = {
    "planning": "an attempt has begun and is planning",
    "ended": "stopped before it was finished; run the same command again to go on",
    "died": "its last attempt died; run the same command again to go on",
    "silent": "its last attempt is silent: it died, or is cut off; the same command, run again, takes over",
}


def _attempt_line(attempt: AttemptStatus) -> str:
    process = f"process {attempt.pid}" + (f" on {attempt.host}" if attempt.host else "")
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(attempt.started))
    if attempt.state == "ended" and attempt.ended is not None:
        state = f"ended after {_duration(attempt.ended - attempt.started)}"
    else:
        state = f"{attempt.state}, heartbeat {_duration(attempt.heartbeat_age_seconds)} ago"
    owner = ", ".join(filter(None, (attempt.job, process)))
    return f"attempt {attempt.number}: {owner}, begun {started}, {state}, {sum(attempt.counts.values())} rows committed"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
