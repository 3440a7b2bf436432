"""The completed pairs of a run, and its number of rows by outcome."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.runs.parts import KEY_COLUMNS, count_each, reasons_of
from schemas.failures import ERROR_KINDS, ERROR_STAGES

ALL, NONE = "all", "none"
COLUMNS = (*KEY_COLUMNS, "error_stage", "error_kind", "fingerprint")
"""The columns of MATCHES that are counted; `rows` below have them, one row per pair and direction."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """The pairs that need not be matched again."""

    ids: pa.ChunkedArray
    """Ids of the pairs that have, in every direction, a row that is not matched again."""
    reasons: dict[str, int]
    """Number of rows of these pairs by reason: 'ok', or 'stage: kind' of an error."""


def completed_pairs(
    rows: pa.Table,
    ids: pa.ChunkedArray,
    directions: tuple[str, ...],
    fingerprint: str,
    retry: Collection[str] = (ALL,),
) -> Completed:
    """Those of the pairs `ids` that are ok in every direction, or failed with an error that is not to be tried again.

    retry: errors to try again: 'all', 'none', stages ('fetch'), or kinds ('fetch:timeout').
    """
    own, reasons, pair_ids = _of_run(rows, directions, fingerprint), reasons_of(rows), rows["pair_id"]
    retried = [reason for reason in pc.unique(reasons).to_pylist() if reason != "ok" and is_retried(reason, retry)]
    stays = pc.and_not(own, pc.is_in(reasons, value_set=pa.array(retried, pa.string())))
    counts = pa.table({"pair_id": pair_ids.filter(stays)}).group_by("pair_id").aggregate([([], "count_all")])
    whole = counts.filter(pc.equal(counts["count_all"], len(directions)))["pair_id"]
    completed = whole.filter(pc.is_in(whole, value_set=ids))
    of_completed = pc.and_(own, pc.is_in(pair_ids, value_set=completed))
    return Completed(ids=completed, reasons=count_each(reasons.filter(of_completed)))


def check_retry(flag: str, retry: Collection[str]) -> None:
    """Raises ValueError naming the flag unless each name is 'all', 'none', a stage or a kind of error."""
    unknown = [name for name in retry if name not in (ALL, NONE, *ERROR_STAGES) and not _is_kind(name)]
    if unknown or not retry:
        stages = {name.partition(":")[0] for name in unknown if ":" in name}
        kinds = [f"{stage} are {', '.join(kinds)}" for stage, kinds in ERROR_KINDS.items() if stage in stages]
        raise ValueError(
            f"{flag} takes {ALL}, {NONE}, a stage ({', '.join(ERROR_STAGES)}) or a kind such as fetch:timeout; "
            f"got {', '.join(unknown) or 'nothing'}" + "".join(f"; the kinds of {text}" for text in kinds)
        )


def _is_kind(name: str) -> bool:
    """Whether this is 'stage:kind' of a failure; at stage match any word may be a kind, the name of an exception."""
    stage, _, kind = name.partition(":")
    return kind in ERROR_KINDS.get(stage, ()) or (stage == "match" and kind.isidentifier())


def is_retried(reason: str, retry: Collection[str]) -> bool:
    """Whether errors of this reason, 'stage: kind', are among those that `retry` names."""
    stage, kind = reason.split(": ", 1)
    return bool({ALL, stage, f"{stage}:{kind}"} & set(retry))


@dataclass(frozen=True, kw_only=True)
class Count:
    """The rows (pairs x directions) of a run, counted against its manifest."""

    limit: int | None
    """Number of pairs counted, the first ones of the manifest; None for all."""
    expected: int
    reasons: dict[str, int]
    """Number of committed rows of these pairs by reason: 'ok', or 'stage: kind' of an error."""
    unexpected: int
    """Number of rows of another run, or of pairs that the manifest does not have."""
    digest: str
    """Digest of all rows, see rows_digest."""

    @property
    def ok(self) -> int:
        """Number of rows that are answered."""
        return self.reasons.get("ok", 0)

    @property
    def error(self) -> int:
        """Number of rows that are errors."""
        return sum(self.reasons.values()) - self.ok

    @property
    def missing(self) -> int:
        """Number of rows that are expected and not committed."""
        return self.expected - self.ok - self.error


def count_rows(
    rows: pa.Table, ids: pa.ChunkedArray, directions: tuple[str, ...], fingerprint: str, limit: int | None
) -> Count:
    """Count the rows of the first `limit` (None: all) of a manifest's `ids`."""
    known = pc.and_(pc.is_in(rows["pair_id"], value_set=ids), _of_run(rows, directions, fingerprint))
    counted = pc.and_(known, pc.is_in(rows["pair_id"], value_set=ids.slice(0, limit)))
    return Count(
        limit=limit,
        expected=len(ids.slice(0, limit)) * len(directions),
        reasons=count_each(reasons_of(rows).filter(counted)),
        unexpected=rows.num_rows - (pc.sum(known).as_py() or 0),
        digest=rows_digest(rows),
    )


def summary(out: str, count: Count) -> str:
    """The counts as text, with the reasons of errors."""
    errors = [f"  {n:>8}  {reason}" for reason, n in count.reasons.items() if reason != "ok"]
    missing = f", {count.missing} missing" if count.missing else ""
    return "\n".join([f"{out}: {count.ok} rows ok, {count.error} errors{missing}", *errors])


def rows_digest(rows: pa.Table) -> str:
    """A hash of which pair was answered or failed in which attempt: changes if a row is lost, added or replaced.

    rows: as read_matches orders them. How they are spread over parts makes no difference.
    """
    digest = hashlib.sha256()
    for batch in rows.to_batches(max_chunksize=2**16):
        fields = [batch["pair_id"], batch["direction"], batch["status"], batch["attempt"].cast(pa.string())]
        lines = pc.binary_join_element_wise(*fields, "\0")
        text = pc.binary_join(pa.ListArray.from_arrays([0, len(lines)], lines), "\n")
        digest.update(b"\n")
        digest.update(text[0].as_buffer())
    return digest.hexdigest()[:16]


def max_limit(limit: int | None, other: int | None) -> int | None:
    """The larger of two limits, where None is none."""
    return None if limit is None or other is None else max(limit, other)


def _of_run(rows: pa.Table, directions: tuple[str, ...], fingerprint: str) -> pa.ChunkedArray:
    """Mask (bool) of the rows that belong to the run."""
    in_direction = pc.is_in(rows["direction"], value_set=pa.array(directions))
    return pc.and_(in_direction, pc.equal(rows["fingerprint"], fingerprint))
