from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.runs.events import read_events
from pipeline.runs.lease import acquire
from pipeline.runs.quarantine import DEATHS, Quarantine, QuarantineMonitor


class _Death(BaseException):
    """Stands for the end of the process: nothing after it runs, and no `except Exception` stops it."""


def _work(quarantine: Quarantine, deadly: str, done: list[str]) -> Iterator[str]:
    """Work of a process on pairs a to d; one of them kills it unless it is left out."""

    def work(pair_ids: Sequence[str]) -> Iterator[str]:
        for pair_id in pair_ids:
            if pair_id == deadly and pair_id not in quarantine.failures:
                raise _Death
            done.append(pair_id)
            yield "refused" if pair_id in quarantine.failures else "ok"

    return quarantine.guard("match", list("abcd"), work)


def test_a_pair_that_kills_is_found_and_set_aside(tmp_path: Path) -> None:
    deaths = 0
    while True:  # every turn is a new process that Ray starts in place of the dead one
        quarantine = Quarantine(str(tmp_path), str(tmp_path / "begun"))
        try:
            assert list(_work(quarantine, deadly="c", done=[])) == ["ok", "ok", "refused", "ok"]
            break
        except _Death:
            deaths += 1

    assert deaths == 4
    later = Quarantine(str(tmp_path), str(tmp_path / "begun of attempt 2"))
    assert list(later.failures) == ["c"]
    assert "its process died 2 times at stage match; to try it again, remove" in later.failures["c"].message
    assert later.failures["c"].kind == "died"
    done: list[str] = []
    assert list(_work(later, deadly="c", done=done)) == ["ok", "ok", "refused", "ok"]
    assert done == list("abcd")


def test_deaths_that_no_pair_caused_set_nothing_aside(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(_Death):
            list(_work(Quarantine(str(tmp_path), str(tmp_path / "begun")), deadly="a", done=[]))

    quarantine = Quarantine(str(tmp_path), str(tmp_path / "begun"))
    assert list(_work(quarantine, deadly="none", done=[])) == ["ok"] * 4
    assert not (tmp_path / "quarantine").exists()


def test_finished_work_leaves_no_mark(tmp_path: Path) -> None:
    for _ in range(3):
        list(_work(Quarantine(str(tmp_path), str(tmp_path / "begun")), deadly="none", done=[]))

    assert list((tmp_path / "begun").iterdir()) == []


def test_work_that_hung_is_done_pair_by_pair_at_once_and_so_is_the_pair_it_hung_at(tmp_path: Path) -> None:
    for _ in range(2):
        quarantine = Quarantine(str(tmp_path), str(tmp_path / "begun"))
        with pytest.raises(_Death):
            list(_work(quarantine, deadly="c", done=[]))
        quarantine.mark_hung()

    quarantine = Quarantine(str(tmp_path), str(tmp_path / "begun"))
    assert list(_work(quarantine, deadly="c", done=[])) == ["ok", "ok", "refused", "ok"]
    assert quarantine.failures["c"].kind == "timeout"
    assert "it gave no answer in time at stage match" in quarantine.failures["c"].message


def test_deaths_and_pairs_set_aside_are_events(tmp_path: Path) -> None:
    """A pair that kills its process, tried until it is set aside, as Ray would have it."""

    lease = acquire(str(tmp_path))
    monitor = QuarantineMonitor(str(tmp_path), lease)
    failures = Quarantine(str(tmp_path), lease.in_progress_folder).failures

    def work(pair_ids: Sequence[str]) -> Iterator[str]:
        if "deadly" in pair_ids and "deadly" not in failures:
            raise _Death
        yield from pair_ids

    for _ in range(2 * DEATHS):
        guard = Quarantine(str(tmp_path), lease.in_progress_folder)
        failures = guard.failures
        with pytest.raises(_Death):
            list(guard.guard("match", ["good", "deadly"], work))
        monitor.record_new()
    guard = Quarantine(str(tmp_path), lease.in_progress_folder)
    failures = guard.failures
    assert list(guard.guard("match", ["good", "deadly"], work)) == ["good", "deadly"]
    monitor.record_new()
    monitor.record_new()
    lease.release()

    events = read_events(lease.attempt.file(str(tmp_path), "events"))
    died = [event["work"] for event in events if event["event"] == "worker_died"]
    set_aside = [(event["pair_id"], event["kind"]) for event in events if event["event"] == "quarantined"]
    assert len(died) == len(set(died)) >= DEATHS - 1
    assert set_aside == [("deadly", "died")]
