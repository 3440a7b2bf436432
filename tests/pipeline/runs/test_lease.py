import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.io import storage
from pipeline.runs.events import read_events
from pipeline.runs.lease import STALE_SECONDS, Attempt, Owner, RunInUseError, acquire, read_attempts, remove_stale_files

ELSEWHERE = Owner(host_id="another-host", pid=1, process_started="1")


def _plant(out: Path, owner: Owner, heartbeat: int = 0) -> None:
    attempt = Attempt(number=1, owner=owner, started=0.0, heartbeat=heartbeat)
    storage.write_bytes(attempt.file(str(out)), attempt.to_json())


def test_attempts_are_numbered_and_say_how_they_ended(tmp_path: Path) -> None:
    lease = acquire(str(tmp_path), job="match")
    lease.plan(10, {"ok": 4, "fetch: not_found": 1})
    lease.count({"ok": 2})
    lease.count({"ok": 1, "decode: truncated": 1})
    lease.release()
    acquire(str(tmp_path)).release()

    first, second = read_attempts(str(tmp_path))
    assert (first.number, second.number) == (1, 2)
    assert (first.job, first.rows, first.settled) == ("match", 10, {"ok": 4, "fetch: not_found": 1})
    assert first.counts == {"ok": 3, "decode: truncated": 1}
    assert first.ended is not None
    assert (second.rows, second.counts, second.rows_per_second) == (None, {}, None)


def test_an_attempt_is_in_the_state_that_its_file_and_process_show() -> None:
    here, gone = Owner.this_process(), replace(Owner.this_process(), process_started="long ago")
    at_work = Attempt(number=1, owner=here, started=0.0, written=1000.0, rows=5)

    assert at_work.state(now=9999.0) == "running"
    assert replace(at_work, rows=None).state(now=1001.0) == "planning"
    assert replace(at_work, owner=gone).state(now=1001.0) == "died"
    assert replace(at_work, owner=gone, ended=1001.0).state(now=1001.0) == "ended"
    assert replace(at_work, owner=ELSEWHERE).state(now=1000.0 + STALE_SECONDS) == "running"
    assert replace(at_work, owner=ELSEWHERE).state(now=1001.0 + STALE_SECONDS) == "silent"


def test_a_takeover_and_an_end_are_events(tmp_path: Path) -> None:
    _plant(tmp_path, replace(Owner.this_process(), process_started="long ago"))

    lease = acquire(str(tmp_path))
    lease.request_stop()
    lease.count({"ok": 2})
    lease.release()

    events = read_events(lease.attempt.file(str(tmp_path), "events"))
    assert [event["event"] for event in events] == ["started", "took_over", "stop_requested", "ended"]
    assert events[1]["earlier"] == 1
    assert events[3]["counts"] == {"ok": 2}
    assert {event["attempt"] for event in events} == {2}


def test_a_second_attempt_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    lease = acquire(str(tmp_path))
    with pytest.raises(RunInUseError, match="is in use: attempt 1"):
        acquire(str(tmp_path))
    lease.release()

    acquire(str(tmp_path)).release()


def test_of_many_that_begin_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    leases, refused = [], []
    together = threading.Barrier(6)

    def begin() -> None:
        together.wait()
        try:
            leases.append(acquire(str(tmp_path)))
        except RunInUseError as error:
            refused.append(error)

    threads = [threading.Thread(target=begin) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (len(leases), len(refused)) == (1, 5)
    leases[0].release()


@pytest.mark.parametrize("change", [{"process_started": "long ago"}, {"pid": 2**22 + 1}])
def test_an_owner_that_died_on_this_host_is_taken_over_at_once(tmp_path: Path, change: dict[str, object]) -> None:
    _plant(tmp_path, replace(Owner.this_process(), **change))

    acquire(str(tmp_path), stale_seconds=60).release()


def test_an_owner_elsewhere_is_taken_over_when_its_heartbeat_stands_still(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _plant(tmp_path, ELSEWHERE)
    start = time.monotonic()

    acquire(str(tmp_path), stale_seconds=0.3).release()

    assert time.monotonic() - start >= 0.3
    assert "may still run on another machine; waiting" in capsys.readouterr().out


def test_an_owner_elsewhere_whose_heartbeat_advances_keeps_the_folder(tmp_path: Path) -> None:
    _plant(tmp_path, ELSEWHERE)
    beat = threading.Timer(0.2, lambda: _plant(tmp_path, ELSEWHERE, heartbeat=1))
    beat.start()

    with pytest.raises(RunInUseError):
        acquire(str(tmp_path), stale_seconds=30)

    beat.join()


def test_the_heartbeat_advances_and_says_how_far_the_attempt_has_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.runs.lease.HEARTBEAT_SECONDS", 0.05)
    looks: list[int] = []
    lease = acquire(str(tmp_path))
    lease.on_heartbeat.append(lambda: looks.append(1))
    lease.plan(10, {})
    lease.count({"ok": 7})

    deadline = time.monotonic() + 10
    while read_attempts(str(tmp_path))[0].heartbeat < 3 and time.monotonic() < deadline:
        time.sleep(0.02)

    (attempt,) = read_attempts(str(tmp_path))
    assert attempt.heartbeat >= 3
    assert (attempt.rows, attempt.counts, attempt.ended) == (10, {"ok": 7}, None)
    assert attempt.rows_per_second is not None
    assert attempt.rows_per_second > 0
    assert looks
    lease.release()


def test_what_the_dead_left_is_gone_and_nothing_else(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    for _ in range(2):
        lease = acquire(out)
        storage.write_bytes(storage.join(lease.in_progress_folder, "match-1"), b"{}")
        lease.release()
        storage.write_bytes(
            storage.join(lease.in_progress_folder, "match-2"), b"{}"
        )  # by a worker that outlived its driver
    for name in ("parts/.part-1.parquet.0f.tmp", "attempts/.00001.json.0f.tmp", "parts/part-2.parquet", "parts/.keep"):
        storage.write_bytes(storage.join(out, name), b"")

    remove_stale_files(out)

    left = {str(file.relative_to(out)) for file in Path(out).rglob("*") if file.is_file()}
    assert {name for name in left if ".events" not in name} == {
        "attempts/00001.json",
        "attempts/00002.json",
        "parts/part-2.parquet",
        "parts/.keep",
    }
