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
from pipeline.manifest import iter_rows, manifest_files
from pipeline.parts import list_parts, read_matches


class OtherRunError(ValueError):
    """The run folder belongs to a run with another fingerprint or manifest."""


def run_fingerprint(matcher_fingerprint: str, options: dict[str, Any]) -> str:
    """One hash for all that shapes the result: the matcher's fingerprint and the options beside it."""
    said = json.dumps([matcher_fingerprint, options], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def open_run(out: str, description: dict[str, Any]) -> str:
    """Create `<out>/run.json`, or find there the same run; the run's id.

    description: at least `fingerprint` and `manifest_digest`. Raises OtherRunError as check_run does.
    """
    mine = {"run_id": uuid.uuid4().hex, **description}
    if storage.create_bytes(storage.join(out, "run.json"), json.dumps(mine, indent=2).encode()):
        return mine["run_id"]
    return check_run(out, description)["run_id"]


def check_run(out: str, description: dict[str, Any]) -> dict[str, Any]:
    """What run.json says. Raises OtherRunError, showing both, if its fingerprint or manifest is not the described one.

    Raises FileNotFoundError if `out` is no run folder.
    """
    found = read_run(out)
    differences = [
        f"{key.replace('_', ' ')} is {description[key]}, the folder's is {found.get(key)}"
        for key in ("fingerprint", "manifest_digest")
        if description[key] != found.get(key)
    ]
    if differences:
        changed = [
            f"{key}: {found.get('config', {}).get(key)!r} -> {value!r}"
            for key, value in description.get("config", {}).items()
            if found.get("config", {}).get(key) != value
        ]
        raise OtherRunError(
            f"{out} holds another run: {' and '.join(differences)}"
            + (f" (changed: {', '.join(changed)})" if changed else "")
            + "; give a new --out, or the settings and manifest the run began with"
        )
    return found


def read_run(out: str) -> dict[str, Any]:
    """What run.json says. Raises FileNotFoundError if `out` is no run folder."""
    try:
        return json.loads(storage.read_bytes(storage.join(out, "run.json")))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{out} is no run folder: it has no run.json") from error


def committed_ids(out: str, directions: tuple[str, ...]) -> pa.Array:
    """Ids of the pairs that are answered, without error, in every one of the directions."""
    if not list_parts(out):
        return pa.array([], pa.string())
    rows = read_matches(out, ["pair_id", "direction", "status"])
    ok = rows.filter(pc.and_(pc.equal(rows["status"], "ok"), pc.is_in(rows["direction"], pa.array(directions))))
    counts = ok.group_by("pair_id").aggregate([([], "count_all")])
    return counts.filter(pc.equal(counts["count_all"], len(directions)))["pair_id"].combine_chunks()


@dataclass(frozen=True, kw_only=True)
class Count:
    """A run folder counted against its manifest, in rows (pairs x directions)."""

    expected: int
    ok: int
    error: int
    errors_by_reason: dict[str, int]
    unexpected: int
    """Rows of pairs that the manifest (up to the limit) does not have."""
    digest: str

    @property
    def missing(self) -> int:
        """Rows that are expected and not there."""
        return self.expected - self.ok - self.error


def count_run(out: str, pairs_uri: str, directions: tuple[str, ...], limit: int | None) -> Count:
    """Count the committed rows of the first `limit` pairs (None: all) of a manifest."""
    ids = _manifest_ids(pairs_uri, limit)
    columns = ["pair_id", "direction", "status", "error_stage", "error_kind"]
    parts = list_parts(out)
    rows = read_matches(out, columns) if parts else pa.table({name: pa.array([], pa.string()) for name in columns})
    known = pc.and_(pc.is_in(rows["pair_id"], value_set=ids), pc.is_in(rows["direction"], pa.array(directions)))
    rows, n_unexpected = rows.filter(known), rows.num_rows - rows.filter(known).num_rows
    errors = rows.filter(pc.not_equal(rows["status"], "ok"))
    reasons = pc.binary_join_element_wise(errors["error_stage"], errors["error_kind"], ": ").value_counts()
    return Count(
        expected=len(ids) * len(directions),
        ok=rows.num_rows - errors.num_rows,
        error=errors.num_rows,
        errors_by_reason=dict(sorted((entry["values"], entry["counts"]) for entry in reasons.to_pylist())),
        unexpected=n_unexpected,
        digest=parts_digest(parts),
    )


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
    totals = {
        "ok": count.ok,
        "error": count.error,
        "errors_by_reason": count.errors_by_reason,
        "limit": limit,
        "parts_digest": count.digest,
    }
    storage.write_bytes(storage.join(out, "_SUCCESS"), json.dumps(totals, indent=2).encode())


def read_success(out: str) -> dict[str, Any] | None:
    """What _SUCCESS says; None if the run is not finished (or `out` is a single MATCHES file)."""
    try:
        return json.loads(storage.read_bytes(storage.join(out, "_SUCCESS")))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _manifest_ids(pairs_uri: str, limit: int | None) -> pa.Array:
    chunks = [
        rows["pair_id"].cast(pa.string())
        for file in manifest_files(pairs_uri)
        for _, _, rows in iter_rows(file, ["pair_id"], 65_536)
    ]
    return pa.concat_arrays(chunks).slice(0, limit) if chunks else pa.array([], pa.string())
