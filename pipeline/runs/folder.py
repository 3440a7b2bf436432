"""What a run folder says of itself.

    <out>/run.json    created once: what is matched, by what, with which settings. Another run is refused.
    <out>/_SUCCESS    written last: totals, and a digest of the rows they were counted from

(attempts/ is pipeline.runs.lease, parts/ is pipeline.runs.parts.)
"""

import hashlib
import json
import uuid
from typing import Any

from pipeline.io import storage
from pipeline.runs.counts import Count


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


def _success_file(out: str) -> str:
    return storage.join(out, "_SUCCESS")
