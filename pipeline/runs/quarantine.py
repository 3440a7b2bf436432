"""Pairs that kill the process that works on them, or hang it: found, set aside, and named; the others go on.

    <out>/attempts/<n>.begun/<key>    work that was begun, and how often; removed when it is finished
    <out>/attempts/<n>.begun/died-<key>-<times>    a note that the process that worked on it died
    <out>/quarantine/<key>.json       a pair that is set aside: pair_id, kind and reason

A process that hangs notes that and ends itself, see pipeline.matching.watchdog. Ray starts a dead process again and
hands it the same work. Work that was begun DEATHS times and never finished, or that hung once, is done pair by pair; a
pair of which the same is true is set aside and becomes an error row, in this run and in later ones, until its file is
removed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from nemf.io.redact import redacted
from pipeline.io import storage
from pipeline.runs.lease import Lease

DEATHS = 2
DIED = "died-"
"""Begins the name of the note that the process which worked on something died."""

Result = TypeVar("Result")


class Refusal(NamedTuple):
    """Why a pair is not worked on."""

    kind: str
    """died or timeout, unless it is refused at an earlier stage."""
    reason: str
    stage: str = "worker"


class Quarantine:
    """The guard of one process."""

    def __init__(self, out: str, begun_folder: str) -> None:
        self._folder = storage.join(out, "quarantine")
        self._begun_folder = begun_folder
        self._in_hand = ""
        entries = map(storage.read_json, storage.list_files(self._folder, ".json"))
        self.refused = {entry["pair_id"]: Refusal(entry["kind"], entry["reason"]) for entry in entries}
        """The pairs set aside, by pair_id."""

    def guard(
        self, stage: str, pair_ids: Sequence[str], work: Callable[[Sequence[str]], Iterator[Result]]
    ) -> Iterator[Result]:
        """`work(pair_ids)` in one piece if that is safe, else pair by pair; `work` heeds `refused`."""
        key = _key(f"{stage}-all", *pair_ids)
        if not self._ended_by(key):
            yield from self._watched(key, pair_ids, work)
            return
        for pair_id in pair_ids:
            key = _key(stage, pair_id)
            if kind := self._ended_by(key):
                self._set_aside(pair_id, key, kind, stage)
            yield from self._watched(key, [pair_id], work)

    def note_hanging(self) -> None:
        """Say that the work in hand hangs, before the process ends itself."""
        storage.write_bytes(self._in_hand, json.dumps({**self._begun(self._in_hand), "hangs": True}).encode())

    def _watched(
        self, key: str, pair_ids: Sequence[str], work: Callable[[Sequence[str]], Iterator[Result]]
    ) -> Iterator[Result]:
        self._in_hand = storage.join(self._begun_folder, key)
        before = self._begun(self._in_hand)["times"]
        if before:
            storage.write_bytes(storage.join(self._begun_folder, f"{DIED}{key}-{before}"), b"")
        storage.write_bytes(self._in_hand, json.dumps({"times": before + 1, "hangs": False}).encode())
        yield from work(pair_ids)
        storage.delete_file(self._in_hand)

    def _set_aside(self, pair_id: str, key: str, kind: str, stage: str) -> None:
        file = storage.join(self._folder, f"{key}.json")
        happened = {"died": f"its process died {DEATHS} times", "timeout": "it gave no answer in time"}
        reason = f"{happened[kind]} at stage {stage}; to try it again, remove {redacted(file)}"
        entry = {"pair_id": pair_id, "kind": kind, "reason": reason}
        storage.write_bytes(file, json.dumps(entry, indent=2).encode())
        self.refused[pair_id] = Refusal(kind, reason)

    def _ended_by(self, key: str) -> str | None:
        """What ended the processes that worked on `key` in this attempt, if it was that work; else None."""
        begun = self._begun(storage.join(self._begun_folder, key))
        if begun["hangs"]:
            return "timeout"
        return "died" if begun["times"] >= DEATHS else None

    def _begun(self, file: str) -> dict[str, Any]:
        """How often the work that `file` stands for was begun in this attempt, not finished, and whether it hung."""
        try:
            return storage.read_json(file)
        except FileNotFoundError:
            return {"times": 0, "hangs": False}


class Casualties:
    """What an attempt lost, as news for its event log: processes that died at their work, pairs that were set aside."""

    def __init__(self, out: str, lease: Lease) -> None:
        self._quarantine = storage.join(out, "quarantine")
        self._lease = lease
        self._known = storage.file_names(self._quarantine)

    def look(self) -> None:
        """Say in the event log what is new. Costs two listings."""
        for note in self._new(self._lease.begun_folder):
            if note.startswith(DIED):
                self._lease.events.say("worker_died", work=note.removeprefix(DIED))
        for name in self._new(self._quarantine):
            if not name.endswith(".json"):
                continue
            self._lease.events.say("quarantined", **storage.read_json(storage.join(self._quarantine, name)))

    def _new(self, folder: str) -> list[str]:
        names = storage.file_names(folder) - self._known
        self._known |= names
        return sorted(name for name in names if not name.startswith("."))


def _key(stage: str, *pair_ids: str) -> str:
    return f"{stage}-{hashlib.sha256(chr(0).join(pair_ids).encode()).hexdigest()[:20]}"
