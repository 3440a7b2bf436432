"""Which pairs of a run are settled, and how many rows it has of each outcome: counted from its parts."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runs.parts import count_each, list_parts, read_matches, reasons_of
from schemas.failures import ERROR_STAGES
from schemas.matches import MATCHES

ALL, NONE = "all", "none"


@dataclass(frozen=True, kw_only=True)
class Completed:
    """What a run need not ask again."""

    ids: pa.ChunkedArray
    """Of the pairs that have a row to stay in every direction."""
    reasons: dict[str, int]
    """The rows of these pairs: how many are 'ok', and how many are errors of each 'stage: kind'."""


def completed_pairs(
    out: str, ids: pa.ChunkedArray, directions: tuple[str, ...], fingerprint: str, retry: Collection[str] = (ALL,)
) -> Completed:
    """Which of the pairs `ids` this run has answered, or failed on with an error that is not to be asked again.

    retry: errors to ask again: 'all', 'none', stages ('fetch'), or kinds ('fetch:timeout').
    """
    rows = _read_run_rows(out, ["pair_id", "direction", "status", "error_stage", "error_kind", "fingerprint"])
    asked, reasons = _of_run(rows, directions, fingerprint), reasons_of(rows)
    again = [reason for reason in pc.unique(reasons).to_pylist() if reason != "ok" and is_retried(reason, retry)]
    stays = pc.and_not(asked, pc.is_in(reasons, value_set=pa.array(again, pa.string())))
    pair_ids = rows["pair_id"]
    counts = pa.table({"pair_id": pair_ids.filter(stays)}).group_by("pair_id").aggregate([([], "count_all")])
    whole = counts.filter(pc.equal(counts["count_all"], len(directions)))["pair_id"]
    done = whole.filter(pc.is_in(whole, value_set=ids))
    kept = reasons.filter(pc.and_(asked, pc.is_in(pair_ids, value_set=done)))
    return Completed(ids=done, reasons=count_each(kept))


def check_retry(retry: Collection[str]) -> None:
    """Raises ValueError for what is no choice of errors to ask again."""
    unknown = [name for name in retry if name.split(":")[0] not in (ALL, NONE, *ERROR_STAGES)]
    if unknown or not retry:
        raise ValueError(
            f"errors to ask again are {ALL}, {NONE}, a stage ({', '.join(ERROR_STAGES)}) or a kind such as "
            f"fetch:timeout; got {', '.join(unknown) or 'nothing'}"
        )


def is_retried(reason: str, retry: Collection[str]) -> bool:
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


def max_limit(limit: int | None, other: int | None) -> int | None:
    """The larger of two limits, where None is none."""
    return None if limit is None or other is None else max(limit, other)
