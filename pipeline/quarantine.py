"""Pairs that kill the process that works on them: found, set aside, and named; the others go on.

    <out>/attempts/<n>.begun/<key>    work that was begun; removed when it is finished
    <out>/quarantine/<key>.json       a pair that killed its process DEATHS times: pair_id and reason

Ray starts a dead process again and hands it the same work. Work that was begun DEATHS times and never finished is done
pair by pair; a pair begun that often is set aside and becomes an error row, in this run and in later ones, until its
file is removed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from pipeline import storage

DEATHS = 2

Result = TypeVar("Result")


class Quarantine:
    """The guard of one process."""

    def __init__(self, out: str, begun_folder: str) -> None:
        self._folder = storage.join(out, "quarantine")
        self._begun_folder = begun_folder
        entries = map(storage.read_json, storage.list_files(self._folder, ".json"))
        self.refused: dict[str, str] = {entry["pair_id"]: entry["reason"] for entry in entries}
        """Reasons, by pair_id, of the pairs set aside."""

    def guard(
        self, stage: str, pair_ids: Sequence[str], work: Callable[[Sequence[str]], Iterator[Result]]
    ) -> Iterator[Result]:
        """`work(pair_ids)` in one piece if that is safe, else pair by pair; `work` heeds `refused`."""
        key = _key(f"{stage}-all", *pair_ids)
        if self._deaths(key) < DEATHS:
            yield from self._watched(key, pair_ids, work)
            return
        for pair_id in pair_ids:
            key = _key(stage, pair_id)
            if self._deaths(key) >= DEATHS:
                self._set_aside(pair_id, key, stage)
            yield from self._watched(key, [pair_id], work)

    def _watched(
        self, key: str, pair_ids: Sequence[str], work: Callable[[Sequence[str]], Iterator[Result]]
    ) -> Iterator[Result]:
        file = storage.join(self._begun_folder, key)
        storage.write_bytes(file, str(self._deaths(key) + 1).encode())
        yield from work(pair_ids)
        storage.delete(file)

    def _set_aside(self, pair_id: str, key: str, stage: str) -> None:
        file = storage.join(self._folder, f"{key}.json")
        reason = f"its process died {DEATHS} times at stage {stage}; to try it again, remove {file}"
        storage.write_bytes(file, json.dumps({"pair_id": pair_id, "reason": reason}, indent=2).encode())
        self.refused[pair_id] = reason

    def _deaths(self, key: str) -> int:
        """How often `key` was begun in this attempt and not finished."""
        try:
            return int(storage.read_bytes(storage.join(self._begun_folder, key)))
        except FileNotFoundError:
            return 0


def _key(stage: str, *pair_ids: str) -> str:
    return f"{stage}-{hashlib.sha256(chr(0).join(pair_ids).encode()).hexdigest()[:20]}"
