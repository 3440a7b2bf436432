from pathlib import Path

import pyarrow as pa
import pytest
from make import match_rows

from pipeline.runs.folder import (
    OtherRunError,
    count_run,
    open_run,
    read_run,
    read_success,
    run_fingerprint,
    settled,
    wider,
)
from pipeline.runs.folder import write_success as finish
from pipeline.runs.parts import list_parts, write_part

ONE_WAY = ("source_to_target",)
GONE = {"status": "error", "error_stage": "fetch", "error_kind": "not_found"}
BOTH = ("source_to_target", "target_to_source")
CONFIG = {"matcher": "one", "backbone_weights": None, "outputs": ("flow",), "direction": "both", "limit": None}
RUN = {"fingerprint": "aaa", "manifest_digest": "m1", "image_root": None, "config": CONFIG}


def test_the_same_run_is_opened_again_whatever_its_limit(tmp_path: Path) -> None:
    run_id = open_run(str(tmp_path), RUN)

    assert open_run(str(tmp_path), {**RUN, "config": {**CONFIG, "limit": 7}}) == run_id


def test_another_run_is_refused_with_both_fingerprints_and_what_changed(tmp_path: Path) -> None:
    open_run(str(tmp_path), RUN)

    with pytest.raises(OtherRunError, match=r"is bbb, the folder's is aaa \(changed: matcher: 'one' -> 'two'\)"):
        open_run(str(tmp_path), {**RUN, "fingerprint": "bbb", "config": {**CONFIG, "matcher": "two", "limit": 7}})
    with pytest.raises(OtherRunError, match="manifest digest is m2, the folder's is m1"):
        open_run(str(tmp_path), {**RUN, "manifest_digest": "m2"})
    with pytest.raises(OtherRunError, match="image root is /b, the folder's is None"):
        open_run(str(tmp_path), {**RUN, "image_root": "/b"})


@pytest.mark.parametrize("content", [b"", b"{}", b"[1"])
def test_a_damaged_run_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)

    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        read_run(str(tmp_path))


def test_the_fingerprint_is_of_the_matcher_and_the_options() -> None:
    prints = {
        run_fingerprint(matcher, {"outputs": outputs})
        for matcher in ("m1", "m2")
        for outputs in (("flow",), ("keypoints", "flow"))
    }
    assert len(prints) == 4


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

    assert _settled(tmp_path, rows["pair_id"], BOTH) == ({"both"}, {"ok": 2})
    assert _settled(tmp_path, rows["pair_id"], ONE_WAY) == ({"both", "failed", "one"}, {"ok": 3})
    assert _settled(tmp_path, pa.chunked_array([["one", "new"]]), ONE_WAY) == ({"one"}, {"ok": 1})
    assert settled(str(tmp_path), rows["pair_id"], ONE_WAY, "another run's").reasons == {}


@pytest.mark.parametrize(
    ("retry", "asked_again"),
    [
        (["all"], {"gone", "late", "half"}),
        (["none"], set()),
        (["fetch"], {"gone", "late", "half"}),
        (["fetch:not_found"], {"gone", "half"}),
        (["fetch:timeout", "match"], {"late"}),
    ],
)
def test_errors_that_are_not_asked_again_are_settled(tmp_path: Path, retry: list[str], asked_again: set[str]) -> None:
    back = {"direction": "target_to_source"}
    late = {**GONE, "error_kind": "timeout"}
    rows = [{"pair_id": "gone", **GONE}, {"pair_id": "gone", **GONE, **back}]
    rows += [{"pair_id": "late", **late}, {"pair_id": "late", **late, **back}]
    rows += [{"pair_id": "half"}, {"pair_id": "half", **GONE, **back}]
    write_part(str(tmp_path), match_rows(*rows))
    ids = pa.chunked_array([["gone", "late", "half", "new"]])

    found = settled(str(tmp_path), ids, BOTH, "f", retry)

    assert set(found.ids.to_pylist()) == {"gone", "late", "half"} - asked_again
    assert sum(found.reasons.values()) == 2 * len(found.ids)
    assert found.reasons.get("fetch: timeout", 0) == (0 if "late" in asked_again else 2)


def _settled(out: Path, ids: pa.ChunkedArray, directions: tuple[str, ...]) -> tuple[set[str], dict[str, int]]:
    found = settled(str(out), ids, directions, "f")
    return set(found.ids.to_pylist()), found.reasons


IDS = pa.chunked_array([list("abcde")])


def test_rows_are_counted_against_the_manifest(tmp_path: Path) -> None:
    error = {"status": "error", "error_stage": "fetch", "error_kind": "not_found"}
    out = str(tmp_path / "run")
    write_part(out, match_rows({"pair_id": "a"}, {"pair_id": "b", **error}, {"pair_id": "stranger"}))
    write_part(out, match_rows({"pair_id": "c", "fingerprint": "another run's"}))

    count = count_run(out, IDS, ONE_WAY, "f", limit=None)

    assert (count.expected, count.ok, count.error, count.missing, count.unexpected) == (5, 1, 1, 3, 2)
    assert count.reasons == {"fetch: not_found": 1, "ok": 1}
    limited = count_run(out, IDS, ONE_WAY, "f", limit=1)
    assert (limited.expected, limited.ok, limited.error, limited.missing, limited.unexpected) == (1, 1, 0, 0, 2)


def test_success_is_not_written_while_rows_are_missing(tmp_path: Path) -> None:
    count = count_run(str(tmp_path), IDS, ONE_WAY, "f", limit=1)

    with pytest.raises(RuntimeError, match="1 of 1 rows are neither answered nor failed"):
        finish(str(tmp_path), count, None)

    assert read_success(str(tmp_path)) is None


def test_the_digest_changes_when_a_part_is_lost(tmp_path: Path) -> None:
    out = str(tmp_path)
    write_part(out, match_rows({"pair_id": "a"}))
    write_part(out, match_rows({"pair_id": "b"}))
    whole = count_run(out, IDS, ONE_WAY, "f", limit=2)
    Path(list_parts(out)[0]).unlink()

    assert count_run(out, IDS, ONE_WAY, "f", limit=2).digest != whole.digest


def test_the_digest_is_of_the_rows_however_they_are_spread_over_parts(tmp_path: Path) -> None:
    one, two, other = (str(tmp_path / name) for name in ("one", "two", "other"))
    write_part(one, match_rows({"pair_id": "b"}, {"pair_id": "a"}))
    for name in "ab":
        write_part(two, match_rows({"pair_id": name}))
        write_part(other, match_rows({"pair_id": name, "attempt": 2}))
    write_part(two, match_rows({"pair_id": "b", "attempt": 2, **GONE}))

    digests = [count_run(out, IDS, ONE_WAY, "f", limit=2).digest for out in (one, two, other)]

    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(("limit", "other", "wide"), [(3, 5, 5), (5, 3, 5), (None, 3, None), (3, None, None)])
def test_the_wider_of_two_limits(limit: int | None, other: int | None, wide: int | None) -> None:
    assert wider(limit, other) == wide
