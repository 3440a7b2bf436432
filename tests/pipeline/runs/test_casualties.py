from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.runs.casualties import Casualties
from pipeline.runs.events import read_events
from pipeline.runs.lease import acquire
from pipeline.runs.quarantine import DEATHS, Quarantine


def test_deaths_and_pairs_set_aside_are_events(tmp_path: Path) -> None:
    """A pair that kills its process, tried until it is set aside, as Ray would have it."""

    class Death(BaseException):
        pass

    lease = acquire(str(tmp_path))
    casualties = Casualties(str(tmp_path), lease)
    refused = Quarantine(str(tmp_path), lease.begun_folder).refused

    def work(pair_ids: Sequence[str]) -> Iterator[str]:
        if "deadly" in pair_ids and "deadly" not in refused:
            raise Death
        yield from pair_ids

    for _ in range(2 * DEATHS):
        guard = Quarantine(str(tmp_path), lease.begun_folder)
        refused = guard.refused
        with pytest.raises(Death):
            list(guard.guard("match", ["good", "deadly"], work))
        casualties.look()
    guard = Quarantine(str(tmp_path), lease.begun_folder)
    refused = guard.refused
    assert list(guard.guard("match", ["good", "deadly"], work)) == ["good", "deadly"]
    casualties.look()
    casualties.look()
    lease.release()

    events = read_events(lease.attempt.file(str(tmp_path), "events"))
    died = [event["work"] for event in events if event["event"] == "worker_died"]
    set_aside = [(event["pair_id"], event["kind"]) for event in events if event["event"] == "quarantined"]
    assert len(died) == len(set(died)) >= DEATHS - 1
    assert set_aside == [("deadly", "died")]
