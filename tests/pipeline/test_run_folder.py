from pathlib import Path

import pytest
from make import match_rows, pair_row, write_pairs

from pipeline.parts import list_parts, write_part
from pipeline.run_folder import OtherRunError, committed_ids, count_run, open_run, read_success, run_fingerprint
from pipeline.run_folder import write_success as finish

ONE_WAY = ("source_to_target",)
BOTH = ("source_to_target", "target_to_source")
RUN = {"fingerprint": "aaa", "manifest_digest": "m1", "config": {"matcher": "one", "limit": None}}


def test_the_same_run_is_opened_again_whatever_its_limit(tmp_path: Path) -> None:
    run_id = open_run(str(tmp_path), RUN)

    assert open_run(str(tmp_path), {**RUN, "config": {"matcher": "one", "limit": 7}}) == run_id


def test_another_run_is_refused_with_both_fingerprints_and_what_changed(tmp_path: Path) -> None:
    open_run(str(tmp_path), RUN)

    with pytest.raises(OtherRunError, match=r"fingerprint is bbb, the folder's is aaa .*matcher: 'one' -> 'two'"):
        open_run(str(tmp_path), {**RUN, "fingerprint": "bbb", "config": {"matcher": "two"}})
    with pytest.raises(OtherRunError, match="manifest digest is m2, the folder's is m1"):
        open_run(str(tmp_path), {**RUN, "manifest_digest": "m2"})


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
        {"pair_id": "failed", "status": "error", **back},
    )
    write_part(str(tmp_path), rows)

    assert committed_ids(str(tmp_path), BOTH).to_pylist() == ["both"]
    assert sorted(committed_ids(str(tmp_path), ONE_WAY).to_pylist()) == ["both", "failed", "one"]


def test_rows_are_counted_against_the_manifest(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.parquet", [pair_row(name) for name in "abcde"])
    error = {"status": "error", "error_stage": "fetch", "error_kind": "not_found"}
    out = str(tmp_path / "run")
    write_part(out, match_rows({"pair_id": "a"}, {"pair_id": "b", **error}, {"pair_id": "stranger"}))

    count = count_run(out, pairs, ONE_WAY, limit=None)

    assert (count.expected, count.ok, count.error, count.missing, count.unexpected) == (5, 1, 1, 3, 1)
    assert count.errors_by_reason == {"fetch: not_found": 1}
    assert count_run(out, pairs, ONE_WAY, limit=2).missing == 0


def test_success_is_not_written_while_rows_are_missing(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.parquet", [pair_row("a")])
    count = count_run(str(tmp_path), pairs, ONE_WAY, limit=None)

    with pytest.raises(RuntimeError, match="1 of 1 rows are neither answered nor failed"):
        finish(str(tmp_path), count, None)

    assert read_success(str(tmp_path)) is None


def test_the_digest_changes_when_a_part_is_lost(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.parquet", [pair_row("a"), pair_row("b")])
    out = str(tmp_path)
    write_part(out, match_rows({"pair_id": "a"}))
    write_part(out, match_rows({"pair_id": "b"}))
    whole = count_run(out, pairs, ONE_WAY, limit=None)
    Path(list_parts(out)[0]).unlink()

    assert count_run(out, pairs, ONE_WAY, limit=None).digest != whole.digest
