"""What a run folder says of itself.

    <out>/run.json    created once: what is matched, by what, with which settings. Another run is refused.
    <out>/_SUCCESS    written last: totals, and a digest of the parts they were counted from

(attempts/ is pipeline.attempts, parts/ is pipeline.parts.)
"""

import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.parts import count_reasons, list_parts, read_matches
from schemas.matches import MATCHES


class OtherRunError(ValueError):
    """The run folder belongs to a run with another fingerprint or manifest."""


def run_fingerprint(matcher_fingerprint: str, options: dict[str, Any]) -> str:
    """One hash for all that shapes the result: the matcher's fingerprint and the options beside it."""
    said = json.dumps([matcher_fingerprint, options], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def open_run(out: str, description: dict[str, Any]) -> str:
    """Create `<out>/run.json`, or find there the same run; the run's id.

    description: what check_run compares, and `config`. Raises OtherRunError as check_run does.
    """
    mine = {"run_id": uuid.uuid4().hex, **description}
    if storage.create_bytes(storage.join(out, "run.json"), json.dumps(mine, indent=2).encode()):
        return mine["run_id"]
    return check_run(out, description)["run_id"]


def check_run(out: str, description: dict[str, Any]) -> dict[str, Any]:
    """What run.json says. Raises OtherRunError, showing both, where it is not as described.

    Compared are `fingerprint`, `manifest_digest` and `image_root`. Raises FileNotFoundError if `out` is no run folder.
    """
    found = read_run(out)
    differences = [
        f"{key.replace('_', ' ')} is {description[key]}, the folder's is {found[key]}"
        for key in ("fingerprint", "manifest_digest", "image_root")
        if description[key] != found[key]
    ]
    if differences:
        now, then = json.loads(json.dumps(description["config"])), found["config"]
        shaping = ("matcher", "backbone_weights", "outputs", "direction")
        changed = [f"{key}: {then[key]!r} -> {now[key]!r}" for key in shaping if then[key] != now[key]]
        raise OtherRunError(
            f"{out} holds another run: {' and '.join(differences)}"
            + (f" (changed: {', '.join(changed)})" if changed else "")
            + "; give a new --out, or the settings and manifest the run began with"
        )
    return found


def read_run(out: str) -> dict[str, Any]:
    """What run.json says. Raises FileNotFoundError if `out` is no run folder, ValueError if run.json is damaged."""
    file = storage.join(out, "run.json")
    try:
        found = storage.read_json(file)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{out} is no run folder: it has no run.json") from error
    absent = {"run_id", "fingerprint", "manifest_digest", "image_root", "config"} - found.keys()
    if absent:
        raise ValueError(f"{file} is damaged: it lacks {', '.join(sorted(absent))}")
    return found


def committed_ids(out: str, directions: tuple[str, ...], fingerprint: str) -> pa.ChunkedArray:
    """Ids of the pairs that this run answered, without error, in every one of the directions."""
    rows = _read_run_rows(out, ["pair_id", "direction", "status", "fingerprint"])
    rows = rows.filter(pc.and_(pc.equal(rows["status"], "ok"), _of_run(rows, directions, fingerprint)))
    counts = rows.group_by("pair_id").aggregate([([], "count_all")])
    return counts.filter(pc.equal(counts["count_all"], len(directions)))["pair_id"]


@dataclass(frozen=True, kw_only=True)
class Count:
    """A run folder counted against its manifest, in rows (pairs x directions)."""

    expected: int
    reasons: dict[str, int]
    """Committed rows that are 'ok', or errors by 'stage: kind'."""
    unexpected: int
    """Rows of another run, or of pairs that the manifest does not have."""
    digest: str

    @property
    def ok(self) -> int:
        """Rows that are answered."""
        return self.reasons.get("ok", 0)

    @property
    def error(self) -> int:
        """Rows that are errors."""
        return sum(self.reasons.values()) - self.ok

    @property
    def missing(self) -> int:
        """Rows that are expected and not there."""
        return self.expected - self.ok - self.error


def count_run(
    out: str, ids: pa.ChunkedArray, directions: tuple[str, ...], fingerprint: str, limit: int | None
) -> Count:
    """Count the committed rows of the first `limit` (None: all) of a manifest's `ids`."""
    rows = _read_run_rows(out, ["pair_id", "direction", "status", "error_stage", "error_kind", "fingerprint"])
    known = pc.and_(pc.is_in(rows["pair_id"], value_set=ids), _of_run(rows, directions, fingerprint))
    asked = pc.and_(known, pc.is_in(rows["pair_id"], value_set=ids.slice(0, limit)))
    return Count(
        expected=len(ids.slice(0, limit)) * len(directions),
        reasons=count_reasons(rows.filter(asked)),
        unexpected=rows.num_rows - rows.filter(known).num_rows,
        digest=parts_digest(list_parts(out)),
    )


def summary(out: str, count: Count) -> str:
    """The counts as text, with the reasons of errors."""
    errors = [f"  {n:>8}  {reason}" for reason, n in count.reasons.items() if reason != "ok"]
    missing = f", {count.missing} missing" if count.missing else ""
    return "\n".join([f"{out}: {count.ok} rows ok, {count.error} errors{missing}", *errors])


def _read_run_rows(out: str, columns: list[str]) -> pa.Table:
    if list_parts(out):
        return read_matches(out, columns)
    return pa.schema([MATCHES.field(name) for name in columns]).empty_table()


def _of_run(rows: pa.Table, directions: tuple[str, ...], fingerprint: str) -> pa.ChunkedArray:
    asked = pc.is_in(rows["direction"], value_set=pa.array(directions))
    return pc.and_(asked, pc.equal(rows["fingerprint"], fingerprint))


def parts_digest(parts: list[str]) -> str:
    """A hash of the parts' names and sizes: changes if one is lost, added or cut."""
    digest = hashlib.sha256()
    for part in parts:
        fs, path = storage.open_uri(part)
        digest.update(f"{part.rsplit('/', 1)[-1]} {fs.size(path)}\n".encode())
    return digest.hexdigest()[:16]


def write_success(out: str, count: Count, limit: int | None) -> None:
    """Say that the run is finished, up to `limit` pairs. Raises RuntimeError if rows are missing."""
    if count.missing:
        raise RuntimeError(f"{out}: {count.missing} of {count.expected} rows are neither answered nor failed")
    totals = {"reasons": count.reasons, "limit": limit, "parts_digest": count.digest}
    storage.write_bytes(_success_file(out), json.dumps(totals, indent=2).encode())


def read_success(out: str) -> dict[str, Any] | None:
    """What _SUCCESS says; None if the run is not finished (or `out` is a single MATCHES file)."""
    try:
        return storage.read_json(_success_file(out))
    except (FileNotFoundError, NotADirectoryError):
        return None


def delete_success(out: str) -> None:
    """Say that the run is not finished any more."""
    storage.delete(_success_file(out))


def wider(limit: int | None, other: int | None) -> int | None:
    """The larger of two limits, where None is none."""
    return None if limit is None or other is None else max(limit, other)


def _success_file(out: str) -> str:
    return storage.join(out, "_SUCCESS")
