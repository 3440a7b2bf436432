from pathlib import Path

import pytest

from pipeline.io import storage
from pipeline.runs.lease import Attempt, Owner
from pipeline.runs.selection import requested_limit

CONFIG = {"matcher": "identity", "direction": "both", "limit": None}


@pytest.mark.parametrize(
    ("recorded", "rows", "limit"), [(None, [20], None), (10, [], 10), (10, [20], 10), (10, [20, 90, None], 45)]
)
def test_the_widest_limit_that_was_asked_for_counts(
    tmp_path: Path, recorded: int | None, rows: list[int | None], limit: int | None
) -> None:
    """The run has two rows for each pair."""
    for number, asked in enumerate(rows, start=1):
        attempt = Attempt(number=number, owner=Owner.this_process(), started=0.0, rows=asked)
        storage.write_bytes(attempt.file(str(tmp_path)), attempt.to_json())

    assert requested_limit(str(tmp_path), {"config": {**CONFIG, "limit": recorded}}) == limit
