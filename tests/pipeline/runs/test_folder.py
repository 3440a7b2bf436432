import json
from pathlib import Path

import pyarrow as pa
import pytest
from make import match_rows, run_description

from pipeline.io import storage
from pipeline.runs.folder import OtherRunError, Run, open_run, read_run, run_fingerprint
from pipeline.runs.lease import Attempt, Owner
from pipeline.runs.parts import write_part

IDS = pa.chunked_array([list("abcde")])


def test_the_same_run_is_opened_again_whatever_its_limit(tmp_path: Path) -> None:
    run = open_run(str(tmp_path), run_description())

    assert open_run(str(tmp_path), run_description(limit=7)) == run
    assert read_run(str(tmp_path)) == run


def test_another_run_is_refused_with_both_fingerprints_and_what_changed(tmp_path: Path) -> None:
    open_run(str(tmp_path), run_description())

    with pytest.raises(OtherRunError, match=r"is bbb, the folder's is f \(changed: matcher: 'planted' -> 'two'\)"):
        open_run(str(tmp_path), {**run_description(matcher="two", limit=7), "fingerprint": "bbb"})
    with pytest.raises(OtherRunError, match="manifest digest is m2, the folder's is m"):
        open_run(str(tmp_path), {**run_description(), "manifest_digest": "m2"}, dry_run=True)
    with pytest.raises(OtherRunError, match="image root is /b, the folder's is None"):
        open_run(str(tmp_path), {**run_description(), "image_root": "/b"})


def test_a_dry_run_describes_a_run_and_creates_nothing(tmp_path: Path) -> None:
    run = open_run(str(tmp_path / "run"), run_description(direction="both"), dry_run=True)

    assert (run.fingerprint, run.directions) == ("f", ("source_to_target", "target_to_source"))
    assert not (tmp_path / "run").exists()


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


def _attempt(run: Run, number: int, rows: int | None) -> None:
    attempt = Attempt(number=number, owner=Owner.this_process(), started=0.0, rows=rows)
    storage.write_bytes(attempt.file(run.out), attempt.to_json())


@pytest.mark.parametrize(
    ("recorded", "rows", "limit"), [(None, [20], None), (10, [], 10), (10, [20], 10), (10, [20, 90, None], 45)]
)
def test_the_largest_limit_that_was_asked_for_counts(
    tmp_path: Path, recorded: int | None, rows: list[int | None], limit: int | None
) -> None:
    """The run has two rows for each pair."""
    run = open_run(str(tmp_path), run_description(direction="both", limit=recorded))
    for number, n_rows in enumerate(rows, start=1):
        _attempt(run, number, n_rows)

    assert (run.requested_limit(), run.limit()) == (limit, limit)


def test_a_finished_run_has_the_limit_that_was_counted(tmp_path: Path) -> None:
    run = open_run(str(tmp_path), run_description())
    write_part(run.out, match_rows({"pair_id": "a"}, {"pair_id": "b"}))
    _attempt(run, 1, rows=5)
    assert (run.limit(), run.success()) == (None, None)

    run.finish(run.count(IDS, 2))

    assert (run.limit(), run.requested_limit()) == (2, None)
    assert json.loads((tmp_path / "_SUCCESS").read_text()) == run.success()
    assert run.success() == {"reasons": {"ok": 2}, "limit": 2, "rows_digest": run.count(IDS, 2).digest}
    run.reopen()
    assert (run.limit(), run.success()) == (None, None)


def test_success_is_not_written_while_rows_are_missing(tmp_path: Path) -> None:
    run = open_run(str(tmp_path), run_description())

    with pytest.raises(RuntimeError, match="1 of 1 rows are neither answered nor failed"):
        run.finish(run.count(IDS, 1))

    assert run.success() is None
