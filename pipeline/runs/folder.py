"""What a run folder says of itself.

    <out>/run.json    created once: what is matched, by what, with which settings. Another run is refused.
    <out>/_SUCCESS    written last: totals, and a digest of the rows they were counted from

(attempts/ is pipeline.runs.lease, parts/ is pipeline.runs.parts.)
"""

import hashlib
import json
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.io import storage
from pipeline.runs.parts import count_each, list_parts, read_matches, reasons_of
from schemas.matches import ERROR_STAGES, MATCHES


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
    if storage.write_if_absent(storage.join(out, "run.json"), json.dumps(mine, indent=2).encode()):
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


ALL, NONE = "all", "none"


@dataclass(frozen=True, kw_only=True)
class Settled:
    """What a run need not ask again."""

    ids: pa.ChunkedArray
    """Of the pairs that have a row to stay in every direction."""
    reasons: dict[str, int]
    """The rows of these pairs: how many are 'ok', and how many are errors of each 'stage: kind'."""


def settled(
    out: str, ids: pa.ChunkedArray, directions: tuple[str, ...], fingerprint: str, retry: Collection[str] = (ALL,)
) -> Settled:
    """Which of the pairs `ids` this run has answered, or failed on with an error that is not to be asked again.

    retry: errors to ask again: 'all', 'none', stages ('fetch'), or kinds ('fetch:timeout').
    """
    rows = _read_run_rows(out, ["pair_id", "direction", "status", "error_stage", "error_kind", "fingerprint"])
    asked, reasons = _of_run(rows, directions, fingerprint), reasons_of(rows)
    again = [reason for reason in pc.unique(reasons).to_pylist() if reason != "ok" and is_asked_again(reason, retry)]
    stays = pc.and_not(asked, pc.is_in(reasons, value_set=pa.array(again, pa.string())))
    pair_ids = rows["pair_id"]
    counts = pa.table({"pair_id": pair_ids.filter(stays)}).group_by("pair_id").aggregate([([], "count_all")])
    whole = counts.filter(pc.equal(counts["count_all"], len(directions)))["pair_id"]
    done = whole.filter(pc.is_in(whole, value_set=ids))
    kept = reasons.filter(pc.and_(asked, pc.is_in(pair_ids, value_set=done)))
    return Settled(ids=done, reasons=count_each(kept))


def check_retry(retry: Collection[str]) -> None:
    """Raises ValueError for what is no choice of errors to ask again."""
    unknown = [name for name in retry if name.split(":")[0] not in (ALL, NONE, *ERROR_STAGES)]
    if unknown or not retry:
        raise ValueError(
            f"errors to ask again are {ALL}, {NONE}, a stage ({', '.join(ERROR_STAGES)}) or a kind such as "
            f"fetch:timeout; got {', '.join(unknown) or 'nothing'}"
        )


def is_asked_again(reason: str, retry: Collection[str]) -> bool:
    """Whether errors of this reason, 'stage: kind', are among those that `retry` names."""
    stage, kind = reason.split(": ", 1)
    return bool({ALL, stage, f"{stage}:{kind}"} & set(retry))


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
    columns = ["pair_id", "direction", "status", "attempt", "error_stage", "error_kind", "fingerprint"]
    rows = _read_run_rows(out, columns)
    known = pc.and_(pc.is_in(rows["pair_id"], value_set=ids), _of_run(rows, directions, fingerprint))
    asked = pc.and_(known, pc.is_in(rows["pair_id"], value_set=ids.slice(0, limit)))
    return Count(
        expected=len(ids.slice(0, limit)) * len(directions),
        reasons=count_each(reasons_of(rows).filter(asked)),
        unexpected=rows.num_rows - (pc.sum(known).as_py() or 0),
        digest=rows_digest(rows),
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


def rows_digest(rows: pa.Table) -> str:
    """A hash of which pair was answered or failed in which attempt: changes if a row is lost, added or replaced.

    rows: as read_matches orders them. How they are spread over parts makes no difference.
    """
    digest = hashlib.sha256()
    for batch in rows.to_batches(max_chunksize=2**16):
        said = [batch["pair_id"], batch["direction"], batch["status"], batch["attempt"].cast(pa.string())]
        lines = pc.binary_join_element_wise(*said, "\0")
        text = pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "\n")
        digest.update(b"\n")
        digest.update(text[0].as_buffer())
    return digest.hexdigest()[:16]


def write_success(out: str, count: Count, limit: int | None) -> None:
    """Say that the run is finished, up to `limit` pairs. Raises RuntimeError if rows are missing."""
    if count.missing:
        raise RuntimeError(f"{out}: {count.missing} of {count.expected} rows are neither answered nor failed")
    totals = {"reasons": count.reasons, "limit": limit, "rows_digest": count.digest}
    storage.write_bytes(_success_file(out), json.dumps(totals, indent=2).encode())


def read_success(out: str) -> dict[str, Any] | None:
    """What _SUCCESS says; None if the run is not finished (or `out` is a single MATCHES file)."""
    try:
        return storage.read_json(_success_file(out))
    except (FileNotFoundError, NotADirectoryError):
        return None


def delete_success(out: str) -> None:
    """Say that the run is not finished any more."""
    storage.delete_file(_success_file(out))


def wider(limit: int | None, other: int | None) -> int | None:
    """The larger of two limits, where None is none."""
    return None if limit is None or other is None else max(limit, other)


def _success_file(out: str) -> str:
    return storage.join(out, "_SUCCESS")
