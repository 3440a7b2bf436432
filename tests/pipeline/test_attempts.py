import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.attempts import Attempt, Owner, RunInUseError, acquire, read_attempts

ELSEWHERE = Owner(host_id="another-host", pid=1, process_started="1")


def _plant(out: Path, owner: Owner, heartbeat: int = 0) -> None:
    attempt = Attempt(number=1, owner=owner, started=0.0, heartbeat=heartbeat)
    storage.write_bytes(attempt.file(str(out)), attempt.to_json())


def test_attempts_are_numbered_and_say_how_they_ended(tmp_path: Path) -> None:
    acquire(str(tmp_path)).release({"ok": 3})
    acquire(str(tmp_path)).release({})

    first, second = read_attempts(str(tmp_path))
    assert (first.number, second.number) == (1, 2)
    assert first.counts == {"ok": 3}
    assert first.ended is not None


def test_a_second_attempt_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    lease = acquire(str(tmp_path))
    with pytest.raises(RunInUseError, match="is in use: attempt 1"):
        acquire(str(tmp_path))
    lease.release({})

    acquire(str(tmp_path)).release({})


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
    leases[0].release({})


@pytest.mark.parametrize("change", [{"process_started": "long ago"}, {"pid": 2**22 + 1}])
def test_an_owner_that_died_on_this_host_is_taken_over_at_once(tmp_path: Path, change: dict[str, object]) -> None:
    _plant(tmp_path, replace(Owner.this_process(), **change))

    acquire(str(tmp_path), stale_seconds=60).release({})


def test_an_owner_elsewhere_is_taken_over_when_its_heartbeat_stands_still(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _plant(tmp_path, ELSEWHERE)
    start = time.monotonic()

    acquire(str(tmp_path), stale_seconds=0.3).release({})

    assert time.monotonic() - start >= 0.3
    assert "may still run on another machine; waiting" in capsys.readouterr().out


def test_an_owner_elsewhere_whose_heartbeat_advances_keeps_the_folder(tmp_path: Path) -> None:
    _plant(tmp_path, ELSEWHERE)
    beat = threading.Timer(0.2, lambda: _plant(tmp_path, ELSEWHERE, heartbeat=1))
    beat.start()

    with pytest.raises(RunInUseError):
        acquire(str(tmp_path), stale_seconds=30)

    beat.join()


def test_the_heartbeat_advances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.attempts.HEARTBEAT_SECONDS", 0.05)
    lease = acquire(str(tmp_path))

    deadline = time.monotonic() + 10
    while read_attempts(str(tmp_path))[0].heartbeat < 2 and time.monotonic() < deadline:
        time.sleep(0.02)

    assert read_attempts(str(tmp_path))[0].heartbeat >= 2
    lease.release({})
