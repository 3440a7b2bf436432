"""Quarantine: pairs that kill or hang the process that works on them are found, named and left out; the others go on.

    <out>/attempts/<n>.begun/<key>                 a claim: work in progress, and how often it was started; removed
                                                   when the work is finished
    <out>/attempts/<n>.begun/died-<key>-<times>    a process died while it worked on that
    <out>/quarantine/<key>.json                    a pair in quarantine: pair_id, kind and reason

A process that hangs marks its claim as hung and ends itself, see pipeline.matching.watchdog. Ray restarts a dead
process and gives it the same work. Work that was started DEATHS times and never finished, or that hung once, is done
pair by pair; a pair of which the same is true goes into quarantine and becomes an error row, in this attempt and in
later ones, until its file is removed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from nemf.io.redact import redacted
from pipeline.io import storage
from pipeline.runs.lease import Lease
from schemas.failures import Failure

DEATHS = 2
_DIED = "died-"
"""Prefix of the files that record the death of a process."""

Result = TypeVar("Result")


class Quarantine:
    """The work of one process, and the pairs that it leaves out."""

    def __init__(self, out: str, in_progress_folder: str) -> None:
        self._folder = storage.join(out, "quarantine")
        self._in_progress_folder = in_progress_folder
        self._claim = ""
        entries = map(storage.read_json, storage.list_files(self._folder, ".json"))
        self.failures = {entry["pair_id"]: Failure("worker", entry["kind"], entry["reason"]) for entry in entries}
        """The failures of the pairs in quarantine, by pair_id."""

    def guard(
        self, stage: str, pair_ids: Sequence[str], work: Callable[[Sequence[str]], Iterator[Result]]
    ) -> Iterator[Result]:
        """The results of `work(pair_ids)`, called once for all pairs if that is safe, else once for each.

        `work` must leave out the pairs in `failures`, which may grow between its calls.
        """
        key = _key(f"{stage}-all", *pair_ids)
        if len(pair_ids) > 1 and not self._cause_of_death(key):
            yield from self._claimed(key, pair_ids, work)
            return
        for pair_id in pair_ids:
            key = _key(stage, pair_id)
            if kind := self._cause_of_death(key):
                self._add(pair_id, key, kind, stage)
            yield from self._claimed(key, [pair_id], work)

    def mark_hung(self) -> None:
        """Mark the current work as hung; the process is then to end itself."""
        storage.write_bytes(self._claim, json.dumps({**_read_claim(self._claim), "hangs": True}).encode())

    def _claimed(
        self, key: str, pair_ids: Sequence[str], work: Callable[[Sequence[str]], Iterator[Result]]
    ) -> Iterator[Result]:
        """The results of `work(pair_ids)`, with a claim file for as long as it takes."""
        self._claim = storage.join(self._in_progress_folder, key)
        n_before = _read_claim(self._claim)["times"]
        if n_before:
            storage.write_bytes(storage.join(self._in_progress_folder, f"{_DIED}{key}-{n_before}"), b"")
        storage.write_bytes(self._claim, json.dumps({"times": n_before + 1, "hangs": False}).encode())
        yield from work(pair_ids)
        storage.delete_file(self._claim)

    def _add(self, pair_id: str, key: str, kind: str, stage: str) -> None:
        """Put a pair into quarantine."""
        file = storage.join(self._folder, f"{key}.json")
        happened = {"died": f"its process died {DEATHS} times", "timeout": "it gave no answer in time"}
        reason = f"{happened[kind]} at stage {stage}; to try it again, remove {redacted(file)}"
        entry = {"pair_id": pair_id, "kind": kind, "reason": reason}
        storage.write_bytes(file, json.dumps(entry, indent=2).encode())
        self.failures[pair_id] = Failure("worker", kind, reason)

    def _cause_of_death(self, key: str) -> str | None:
        """'timeout' or 'died' if the work `key` ended its processes in this attempt, else None."""
        claim = _read_claim(storage.join(self._in_progress_folder, key))
        if claim["hangs"]:
            return "timeout"
        return "died" if claim["times"] >= DEATHS else None


class QuarantineMonitor:
    """Records in an attempt's event log the pairs that went into quarantine, and the processes that died.

    with_deaths: False where the job itself records each death.
    """

    def __init__(self, out: str, lease: Lease, *, with_deaths: bool = True) -> None:
        self._with_deaths = with_deaths
        self._folder = storage.join(out, "quarantine")
        self._lease = lease
        self._known = storage.file_names(self._folder)

    def record_new(self) -> None:
        """Record the deaths and quarantined pairs that are new since the last call. Costs two listings."""
        for name in self._new_names(self._lease.in_progress_folder) if self._with_deaths else ():
            if name.startswith(_DIED):
                self._lease.events.record("worker_died", work=name.removeprefix(_DIED))
        for name in self._new_names(self._folder):
            if name.endswith(".json"):
                self._lease.events.record("quarantined", **storage.read_json(storage.join(self._folder, name)))

    def _new_names(self, folder: str) -> list[str]:
        names = storage.file_names(folder) - self._known
        self._known |= names
        return sorted(name for name in names if not name.startswith("."))


def _read_claim(file: str) -> dict[str, Any]:
    """`times` that the work was started in this attempt without being finished, and whether it `hangs`."""
    try:
        return storage.read_json(file)
    except FileNotFoundError:
        return {"times": 0, "hangs": False}


def _key(stage: str, *pair_ids: str) -> str:
    return f"{stage}-{hashlib.sha256(chr(0).join(pair_ids).encode()).hexdigest()[:20]}"
