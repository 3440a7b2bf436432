from pathlib import Path

import pyarrow as pa
import pytest
from make import encoded, noise_rgb, pair_row

from nemf.matchers.identity import IdentityMatcher
from pipeline.decode import Chunk, decode_rows
from pipeline.match import match_chunk
from pipeline.options import MatchOptions
from pipeline.quarantine import Quarantine
from schemas.pairs import PAIRS


class _Death(BaseException):
    """Stands for the end of the process: nothing after it runs, and no `except Exception` stops it."""


def _chunk() -> Chunk:
    rows = [pair_row(name, source_image=encoded(noise_rgb(1)), target_image=encoded(noise_rgb(2))) for name in "abcd"]
    (chunk,) = decode_rows(pa.Table.from_pylist(rows, PAIRS), None)
    return chunk


def _match(chunk: Chunk) -> pa.Table:
    if any(pair["pair_id"] == "c" for pair in chunk.pairs) and "c" not in chunk.refused:
        raise _Death
    return match_chunk(IdentityMatcher(), chunk, MatchOptions(), fingerprint="f", attempt=1)


def test_a_pair_that_kills_is_found_and_set_aside(tmp_path: Path) -> None:
    out, begun = str(tmp_path), str(tmp_path / "begun")
    deaths = 0
    while True:  # every turn is a new process that Ray starts in place of the dead one
        try:
            rows = Quarantine(out, begun).guard(_chunk(), _match).to_pylist()
            break
        except _Death:
            deaths += 1

    assert deaths == 4
    assert [(row["pair_id"], row["status"], row["error_kind"]) for row in rows] == [
        ("a", "ok", None),
        ("b", "ok", None),
        ("c", "error", "worker_died"),
        ("d", "ok", None),
    ]


def test_a_later_run_does_not_try_it_again(tmp_path: Path) -> None:
    test_a_pair_that_kills_is_found_and_set_aside(tmp_path)

    rows = Quarantine(str(tmp_path), str(tmp_path / "begun of attempt 2")).guard(_chunk(), _match).to_pylist()

    assert [row["status"] for row in rows] == ["ok", "ok", "error", "ok"]
    assert rows[2]["error_message"] == "the process that matched this pair died 2 times"


def test_deaths_of_other_pairs_set_nothing_aside(tmp_path: Path) -> None:
    def dies(_chunk: Chunk) -> pa.Table:
        raise _Death

    for _ in range(2):
        with pytest.raises(_Death):
            Quarantine(str(tmp_path), str(tmp_path / "begun")).guard(_chunk(), dies)

    rows = (
        Quarantine(str(tmp_path), str(tmp_path / "begun"))
        .guard(_chunk(), lambda c: match_chunk(IdentityMatcher(), c, MatchOptions(), fingerprint="f", attempt=1))
        .to_pylist()
    )
    assert [row["status"] for row in rows] == ["ok"] * 4
    assert not (tmp_path / "quarantine").exists()
