"""A run and its folder: its settings, the number of pairs requested, and the pairs that are done.

    <out>/run.json                     created once: what is matched, by what, with which settings
    <out>/parts/part-<key>.parquet     MATCHES rows; a part that exists is committed (runs/parts.py)
    <out>/attempts/<n>.json            one start of the job: its process, heartbeat and progress (runs/lease.py)
    <out>/attempts/<n>.stop            the attempt was asked to stop
    <out>/attempts/<n>.begun/          work in progress, and processes that died at it (runs/quarantine.py)
    <out>/attempts/<n>.events/         event log, as JSON lines (runs/events.py)
    <out>/quarantine/<key>.json        a pair that killed or hung its process, and is left out
    <out>/_SUCCESS                     written last: the counts, and a digest of the rows they were counted from

Resume: the same command again goes on where the last attempt ended. `open_run` refuses another run the folder, and
`lease.acquire` a second attempt while one is running. Only the parts show what is done. Three
functions decide what is done again:

    counts.is_retried         which errors are to be tried again (--retry)
    counts.completed_pairs    which pairs have, in every direction, a row that is not to be tried again
    matching.plan.make_plan   all other pairs of the manifest, up to --limit, become the slices of this attempt

Where a pair is done twice (its process died between the commit of a part and the end of its task, or its error was
tried again), both rows stay, and `parts.chosen_rows` says which one every reader takes.
"""

import hashlib
import json
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.io import storage
from pipeline.runs.counts import ALL, COLUMNS, Completed, Count, completed_pairs, count_rows
from pipeline.runs.lease import read_attempts
from pipeline.runs.parts import list_parts, read_matches
from schemas.matches import MATCHES, directions_of

_SUCCESS = "_SUCCESS"
_OWN = ("run.json", _SUCCESS, "parts", "attempts", "quarantine")
"""What a run keeps in its folder."""

KEYPOINTS = "keypoints"
"""The points of a run that has those of the manifest, as have those from before there were others."""


class OtherRunError(ValueError):
    """The run folder belongs to a run with another fingerprint or manifest."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run, as its run.json describes it. Its methods read the rest of the folder at every call."""

    out: str
    """The run folder, path or URI."""
    run_id: str
    fingerprint: str
    """Hash of the matcher, the directions, the outputs, the points asked and the crop, see run_fingerprint."""
    manifest_digest: str
    image_root: str | None
    config: dict[str, Any]
    """The settings of the first attempt, a jobs.match.Config as JSON."""
    versions: dict[str, str]
    """Versions of Python and the packages at the first attempt."""
    matcher_fingerprint: str | None = None
    """The matcher's own, without directions and outputs; None for a run of an early version."""
    reduced_side: int | None = None
    """The side that large images are reduced for, see pipeline.io.images.decode_reduced; None where they are read
    whole."""

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions of the run; every pair has a row in each."""
        return directions_of(self.config["direction"])

    @property
    def points(self) -> str:
        """The points that were asked, as --points says: 'keypoints' for those of the manifest."""
        return str(self.config.get("points", KEYPOINTS))

    @property
    def crop(self) -> str:
        """What the images were cropped to before they were matched: none or boxes."""
        return str(self.config.get("crop", "none"))

    def limit(self) -> int | None:
        """The number of pairs of the run, the first ones of the manifest; None for all.

        For a finished run the number in _SUCCESS, otherwise the largest number that any attempt was started with.
        """
        success = self.success()
        return success["limit"] if success else self.requested_limit()

    def requested_limit(self) -> int | None:
        """The largest number of pairs that any attempt was started with; None for all."""
        limit = self.config["limit"]
        rows = [attempt.rows for attempt in read_attempts(self.out) if attempt.rows]
        return limit and max([limit, *(n // len(self.directions) for n in rows)])

    def completed(self, ids: pa.ChunkedArray, retry: Collection[str] = (ALL,)) -> Completed:
        """The pairs among `ids` that need not be matched again, see counts.completed_pairs."""
        return completed_pairs(self._rows(), ids, self.directions, self.fingerprint, retry)

    def count(self, ids: pa.ChunkedArray, limit: int | None) -> Count:
        """The committed rows of the first `limit` (None: all) of the manifest's `ids`."""
        return count_rows(self._rows(), ids, self.directions, self.fingerprint, limit)

    def success(self) -> dict[str, Any] | None:
        """The content of _SUCCESS: `reasons`, `limit` and `rows_digest` of a Count; None if the run is not finished."""
        try:
            return storage.read_json(self._success_file)
        except FileNotFoundError:
            return None

    def finish(self, count: Count) -> None:
        """Write _SUCCESS. Raises RuntimeError if rows are missing."""
        if count.missing:
            raise RuntimeError(f"{self.out}: {count.missing} of {count.expected} rows are neither answered nor failed")
        totals = {"reasons": count.reasons, "limit": count.limit, "rows_digest": count.digest}
        storage.write_bytes(self._success_file, json.dumps(totals, indent=2).encode())

    def reopen(self) -> None:
        """Delete _SUCCESS: the run is not finished any more."""
        storage.delete_file(self._success_file)

    def _rows(self) -> pa.Table:
        if list_parts(self.out):
            return read_matches(self.out, COLUMNS)
        return pa.schema([MATCHES.field(name) for name in COLUMNS]).empty_table()

    @property
    def _success_file(self) -> str:
        return storage.join(self.out, _SUCCESS)


def refuse_files_of_runs(out: str, *runs: str, flag: str = "--out") -> None:
    """Raises ValueError if `out`, which is about to be written, is a file that one of the runs keeps, or below one."""
    for run in runs:
        for name in _OWN:
            own = storage.absolute(storage.join(run, name))
            if f"{storage.absolute(out)}/".startswith(f"{own}/"):
                raise ValueError(f"{flag} {out} is what the run {run} is kept in; give {flag} another name")


def is_finished(out: str) -> bool:
    """Whether `out` is the folder of a finished run."""
    return storage.exists(storage.join(out, _SUCCESS))


def run_fingerprint(matcher_fingerprint: str, options: dict[str, Any]) -> str:
    """One hash of everything that shapes the result: the matcher's fingerprint and the options that shape rows."""
    hashed = json.dumps([matcher_fingerprint, options], sort_keys=True)
    return hashlib.sha256(hashed.encode()).hexdigest()[:16]


def crop_note(crop: str) -> str:
    """What to say of a run whose images were cropped, behind its other settings; nothing of one of whole images."""
    return "" if crop == "none" else f", images cropped to {crop}"


def open_run(out: str, description: dict[str, Any], *, dry_run: bool = False) -> Run:
    """The run in the folder `out`: created, or continued if it is the same.

    description: the content of run.json but `run_id`. dry_run: create nothing.
    Raises OtherRunError, showing both, where `fingerprint`, `manifest_digest` or `image_root` are not as described.
    """
    file = storage.join(out, "run.json")
    content = {"run_id": uuid.uuid4().hex, **description}
    if dry_run:
        is_new = not storage.exists(file)
    else:
        is_new = storage.write_if_absent(file, json.dumps(content, indent=2).encode())
    if is_new:
        return _run(out, content)
    run = read_run(out)
    _check_same(run, description)
    return run


def read_run(out: str) -> Run:
    """The run in the folder `out`.

    Raises FileNotFoundError if `out` is no run folder, ValueError if run.json is damaged.
    """
    file = storage.join(out, "run.json")
    try:
        content = storage.read_json(file)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{out} is no run folder: it has no run.json") from error
    absent = {"run_id", "fingerprint", "manifest_digest", "image_root", "config"} - content.keys()
    if absent:
        raise ValueError(f"{file} is damaged: it lacks {', '.join(sorted(absent))}")
    return _run(out, content)


def _run(out: str, content: dict[str, Any]) -> Run:
    names = ("run_id", "fingerprint", "manifest_digest", "image_root", "config")
    own = content.get("matcher_fingerprint")
    described = {name: content[name] for name in names}
    return Run(
        out=out,
        versions=content.get("versions", {}),
        matcher_fingerprint=own,
        reduced_side=content.get("reduced_side"),
        **described,
    )


def _check_same(run: Run, description: dict[str, Any]) -> None:
    """Raises OtherRunError where the run is not as described."""
    differences = [
        f"{key.replace('_', ' ')} is {description[key]}, the folder's is {getattr(run, key)}"
        for key in ("fingerprint", "manifest_digest", "image_root")
        if description[key] != getattr(run, key)
    ]
    if differences:
        now, then = json.loads(json.dumps(description["config"])), run.config
        then, now = ({"points": KEYPOINTS, "crop": "none", **config} for config in (then, now))
        shaping = ("matcher", "backbone_weights", "outputs", "direction", "points", "crop")
        changed = [f"{key}: {then[key]!r} -> {now[key]!r}" for key in shaping if then[key] != now[key]]
        raise OtherRunError(
            f"{run.out} holds another run: {' and '.join(differences)}"
            + (f" (changed: {', '.join(changed)})" if changed else "")
            + "; give a new --out, or the settings and manifest the run began with"
        )
