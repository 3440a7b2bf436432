"""Pairs that kill the process that matches them: found, set aside, and named; the others go on.

    <out>/attempts/<attempt>.begun/<key>    a chunk or pair that was begun; removed when it is finished
    <out>/quarantine/<key>.json             a pair that killed its worker DEATHS times: pair_id and reason

Ray starts a dead process again and hands it the same chunk. A chunk that was begun DEATHS times and never finished is
matched pair by pair; a pair begun that often is set aside and becomes an error row, in this run and in later ones,
until its file is removed.
"""

import hashlib
import json
from collections.abc import Callable

import pyarrow as pa

from pipeline import storage
from pipeline.decode import Chunk

DEATHS = 2


class Quarantine:
    """The guard of one worker process."""

    def __init__(self, out: str, begun_folder: str) -> None:
        self._folder = storage.join(out, "quarantine")
        self._begun_folder = begun_folder
        self._reasons = {
            entry["pair_id"]: entry["reason"]
            for file in storage.list_files(self._folder, ".json")
            for entry in [json.loads(storage.read_bytes(file))]
        }

    def guard(self, chunk: Chunk, match: Callable[[Chunk], pa.Table]) -> pa.Table:
        """`match(chunk)`, in one piece if that is safe; pairs set aside get `chunk.refused` reasons instead."""
        chunk.refused = {
            p["pair_id"]: self._reasons[p["pair_id"]] for p in chunk.pairs if p["pair_id"] in self._reasons
        }
        key = _key("chunk", *(pair["pair_id"] for pair in chunk.pairs))
        if self._deaths(key) < DEATHS:
            return self._watched(key, chunk, match)
        pieces = [self._guard_pair(chunk.only(pair["pair_id"]), match) for pair in chunk.pairs]
        return pa.concat_tables(pieces)

    def _guard_pair(self, chunk: Chunk, match: Callable[[Chunk], pa.Table]) -> pa.Table:
        pair_id = chunk.pairs[0]["pair_id"]
        key = _key("pair", pair_id)
        deaths = self._deaths(key)
        if deaths >= DEATHS and pair_id not in self._reasons:
            reason = f"the process that matched this pair died {deaths} times"
            entry = json.dumps({"pair_id": pair_id, "reason": reason}, indent=2)
            storage.write_bytes(storage.join(self._folder, f"{key}.json"), entry.encode())
            self._reasons[pair_id] = chunk.refused[pair_id] = reason
        return self._watched(key, chunk, match)

    def _watched(self, key: str, chunk: Chunk, match: Callable[[Chunk], pa.Table]) -> pa.Table:
        file = storage.join(self._begun_folder, key)
        storage.write_bytes(file, str(self._deaths(key) + 1).encode())
        rows = match(chunk)
        storage.delete(file)
        return rows

    def _deaths(self, key: str) -> int:
        """How often `key` was begun in this attempt and not finished."""
        try:
            return int(storage.read_bytes(storage.join(self._begun_folder, key)))
        except FileNotFoundError:
            return 0


def _key(kind: str, *pair_ids: str) -> str:
    return f"{kind}-{hashlib.sha256(chr(0).join(pair_ids).encode()).hexdigest()[:20]}"
