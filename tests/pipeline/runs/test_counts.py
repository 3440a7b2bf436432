from pathlib import Path

import pyarrow as pa
import pytest
from make import match_rows

from pipeline.runs.counts import COLUMNS, check_retry, completed_pairs, count_rows, max_limit
from pipeline.runs.parts import list_parts, read_matches, write_part

ONE_WAY = ("source_to_target",)
GONE = {"status": "error", "error_stage": "fetch", "error_kind": "not_found"}
BOTH = ("source_to_target", "target_to_source")


def test_a_pair_is_done_when_every_direction_is_ok(tmp_path: Path) -> None:
    back = {"direction": "target_to_source"}
    rows = match_rows(
        {"pair_id": "both"},
        {"pair_id": "both", **back},
        {"pair_id": "one"},
        {"pair_id": "failed"},
        {"pair_id": "failed", **GONE, **back},
    )
    write_part(str(tmp_path), rows)

    assert _completed(tmp_path, rows["pair_id"], BOTH) == ({"both"}, {"ok": 2})
    assert _completed(tmp_path, rows["pair_id"], ONE_WAY) == ({"both", "failed", "one"}, {"ok": 3})
    assert _completed(tmp_path, pa.chunked_array([["one", "new"]]), ONE_WAY) == ({"one"}, {"ok": 1})
    assert completed_pairs(_rows(tmp_path), rows["pair_id"], ONE_WAY, "another run's").reasons == {}


@pytest.mark.parametrize(
    ("retry", "tried_again"),
    [
        (["all"], {"gone", "late", "half"}),
        (["none"], set()),
        (["fetch"], {"gone", "late", "half"}),
        (["fetch:not_found"], {"gone", "half"}),
        (["fetch:timeout", "match"], {"late"}),
    ],
)
def test_errors_that_are_not_tried_again_are_completed(tmp_path: Path, retry: list[str], tried_again: set[str]) -> None:
    back = {"direction": "target_to_source"}
    late = {**GONE, "error_kind": "timeout"}
    rows = [{"pair_id": "gone", **GONE}, {"pair_id": "gone", **GONE, **back}]
    rows += [{"pair_id": "late", **late}, {"pair_id": "late", **late, **back}]
    rows += [{"pair_id": "half"}, {"pair_id": "half", **GONE, **back}]
    write_part(str(tmp_path), match_rows(*rows))
    ids = pa.chunked_array([["gone", "late", "half", "new"]])

    completed = completed_pairs(_rows(tmp_path), ids, BOTH, "f", retry)

    assert set(completed.ids.to_pylist()) == {"gone", "late", "half"} - tried_again
    assert sum(completed.reasons.values()) == 2 * len(completed.ids)
    assert completed.reasons.get("fetch: timeout", 0) == (0 if "late" in tried_again else 2)


@pytest.mark.parametrize("name", ["all", "none", "fetch", "fetch:timeout", "match:RuntimeError", "worker:died"])
def test_errors_that_may_be_tried_again(name: str) -> None:
    check_retry("--retry", [name])


@pytest.mark.parametrize(
    ("retry", "ending"),
    [
        ([], "got nothing"),
        (["fetch", "timeout"], "got timeout"),
        (["all:foo", "none:timeout"], "got all:foo, none:timeout"),
        (["match:"], "got match:; the kinds of match are not_finite, bad_answer"),
        (["worker:timeuot"], "got worker:timeuot; the kinds of worker are died, timeout"),
        (["fetch:a", "fetch:b"], "got fetch:a, fetch:b; the kinds of fetch are not_found, permission_denied, bad_uri"),
    ],
)
def test_what_is_no_error_to_try_again_is_refused(retry: list[str], ending: str) -> None:
    with pytest.raises(ValueError, match=rf"^--retry takes all, none, a stage \(manifest, fetch.*; {ending}"):
        check_retry("--retry", retry)


def _completed(out: Path, ids: pa.ChunkedArray, directions: tuple[str, ...]) -> tuple[set[str], dict[str, int]]:
    completed = completed_pairs(_rows(out), ids, directions, "f")
    return set(completed.ids.to_pylist()), completed.reasons


def _rows(out: Path | str) -> pa.Table:
    return read_matches(str(out), COLUMNS)


IDS = pa.chunked_array([list("abcde")])


def test_rows_are_counted_against_the_manifest(tmp_path: Path) -> None:
    error = {"status": "error", "error_stage": "fetch", "error_kind": "not_found"}
    out = str(tmp_path / "run")
    write_part(out, match_rows({"pair_id": "a"}, {"pair_id": "b", **error}, {"pair_id": "stranger"}))
    write_part(out, match_rows({"pair_id": "c", "fingerprint": "another run's"}))

    count = count_rows(_rows(out), IDS, ONE_WAY, "f", limit=None)

    assert (count.expected, count.ok, count.error, count.missing, count.unexpected) == (5, 1, 1, 3, 2)
    assert count.reasons == {"fetch: not_found": 1, "ok": 1}
    limited = count_rows(_rows(out), IDS, ONE_WAY, "f", limit=1)
    assert (limited.expected, limited.ok, limited.error, limited.missing, limited.unexpected) == (1, 1, 0, 0, 2)


def test_the_digest_changes_when_a_part_is_lost(tmp_path: Path) -> None:
    out = str(tmp_path)
    write_part(out, match_rows({"pair_id": "a"}))
    write_part(out, match_rows({"pair_id": "b"}))
    whole = count_rows(_rows(out), IDS, ONE_WAY, "f", limit=2)
    Path(list_parts(out)[0]).unlink()

    assert count_rows(_rows(out), IDS, ONE_WAY, "f", limit=2).digest != whole.digest


def test_the_digest_is_of_the_rows_however_they_are_spread_over_parts(tmp_path: Path) -> None:
    one, two, other = (str(tmp_path / name) for name in ("one", "two", "other"))
    write_part(one, match_rows({"pair_id": "b"}, {"pair_id": "a"}))
    for name in "ab":
        write_part(two, match_rows({"pair_id": name}))
        write_part(other, match_rows({"pair_id": name, "attempt": 2}))
    write_part(two, match_rows({"pair_id": "b", "attempt": 2, **GONE}))

    digests = [count_rows(_rows(out), IDS, ONE_WAY, "f", limit=2).digest for out in (one, two, other)]

    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("limit", "other", "wide"), [(3, 5, 5), (5, 3, 5), (None, 3, None), (3, None, None)])
def test_the_wider_of_two_limits(limit: int | None, other: int | None, wide: int | None) -> None:
    assert max_limit(limit, other) == wide
