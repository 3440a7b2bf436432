import json
import time
from pathlib import Path
from typing import Any

import pytest
from make import match_rows

from pipeline.io import storage
from pipeline.runs.folder import open_run
from pipeline.runs.lease import Attempt, Owner
from pipeline.runs.parts import write_part
from pipeline.runs.status import as_text, read_status

CONFIG = {"matcher": "identity", "direction": "both", "limit": None}
RUN = {"fingerprint": "f", "manifest_digest": "m", "image_root": None, "config": CONFIG, "versions": {"ray": "9.9"}}
ELSEWHERE = Owner(host_id="another-host", pid=77, process_started="1")


@pytest.fixture
def out(tmp_path: Path) -> str:
    open_run(str(tmp_path), RUN)
    write_part(str(tmp_path), match_rows({"pair_id": "a"}))
    return str(tmp_path)


def _attempt(out: str, number: int = 1, **fields: Any) -> None:
    defaults = {"owner": ELSEWHERE, "host": "node-7", "job": "match", "started": time.time() - 600}
    attempt = Attempt(number=number, **{**defaults, "written": time.time(), **fields})
    storage.write_bytes(attempt.file(out), attempt.to_json())


def test_a_run_at_work_elsewhere(out: str) -> None:
    _attempt(out, 1, ended=time.time(), rows=1000, counts={"ok": 200, "fetch: timeout": 3})
    at_work = {"ok": 300, "fetch: timeout": 1, "decode: corrupt": 1}
    _attempt(out, 2, rows=1000, settled={"ok": 198}, counts=at_work, rows_per_second=5.0)
    storage.write_bytes(storage.join(out, "quarantine", "x.json"), b"{}")

    status = read_status(out)

    assert status.state == "running"
    assert (status.rows, status.completed) == (1000, 500)
    assert status.reasons == {"decode: corrupt": 1, "fetch: timeout": 1, "ok": 498}
    assert (status.rows_per_second, status.seconds_left) == (5.0, 100.0)
    assert (status.quarantined, status.parts) == (1, 1)
    assert [(attempt.number, attempt.state) for attempt in status.attempts] == [(1, "ended"), (2, "running")]
    text = as_text(status)
    assert "500 of 1000 rows done (50.0 %), 498 ok" in text
    assert "5.0 rows/s over the last minutes, 1 min 40 s left at that rate" in text
    assert "attempt 2: match, process 77 on node-7, begun " in text
    assert "running, heartbeat 0 s ago, 302 rows committed" in text
    assert json.loads(json.dumps(status.to_json()))["reasons"] == status.reasons


@pytest.mark.parametrize(
    ("fields", "state", "text"),
    [
        ({"ended": 1.0}, "ended", "stopped before it was finished"),
        ({"written": 0.0}, "silent", "the same command, run again, takes over"),
        ({"owner": Owner.this_process(), "rows": None}, "planning", "is planning"),
        ({"owner": Owner(**{**vars(Owner.this_process()), "process_started": "x"})}, "died", "its last attempt died"),
    ],
)
def test_a_run_that_is_not_at_work_says_why(out: str, fields: dict[str, Any], state: str, text: str) -> None:
    _attempt(out, rows_per_second=5.0, **{"rows": 10, **fields})

    status = read_status(out)

    assert status.state == state
    assert text in as_text(status)
    assert status.seconds_left is None


def test_while_an_attempt_plans_the_numbers_are_those_before_it(out: str) -> None:
    _attempt(out, 1, ended=1.0, rows=10, counts={"ok": 4})
    _attempt(out, 2, ended=1.0, job="compact")

    assert (read_status(out).rows, read_status(out).reasons) == (10, {"ok": 4})


def test_a_finished_run_is_what_success_says(out: str) -> None:
    _attempt(out, ended=1.0, rows=10, counts={"ok": 1})
    totals = {"reasons": {"fetch: not_found": 2, "ok": 8}, "limit": None}
    storage.write_bytes(storage.join(out, "_SUCCESS"), json.dumps(totals).encode())

    status = read_status(out)

    assert (status.state, status.rows, status.reasons) == ("finished", 10, totals["reasons"])
    assert f"{2:>8}  fetch: not_found" in as_text(status)


def test_before_the_first_attempt_nothing_is_planned(out: str) -> None:
    assert "not planned yet" in as_text(read_status(out))


def test_no_part_is_opened(out: str) -> None:
    (Path(out) / "parts" / "part-0.parquet").write_bytes(b"not Parquet")

    assert read_status(out).parts == 2


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is no run folder"):
        read_status(str(tmp_path))


def test_a_run_in_boxes_says_so(tmp_path: Path) -> None:
    open_run(str(tmp_path), {**RUN, "config": {**CONFIG, "crop": "boxes"}})
    status = read_status(str(tmp_path))
    assert status.crop == "boxes"
    assert "target_to_source, points keypoints, images cropped to boxes, run fingerprint f" in as_text(status)


def test_a_run_of_an_earlier_version_is_of_whole_images(out: str) -> None:
    assert read_status(out).crop == "none"
    assert "cropped" not in as_text(read_status(out))
