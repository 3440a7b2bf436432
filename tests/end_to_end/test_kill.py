"""The match job is killed for real, at random moments, and run again: the table equals that of an undisturbed run."""

import random
import signal
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command import Finished, run_job
from job_process import MATCHER, MatchProcess
from make import write_image_pairs

from jobs import verify
from pipeline.runs.lease import read_attempts
from pipeline.runs.parts import list_parts, read_matches
from schemas.matches import RESULT_COLUMNS
from schemas.pairs import PAIRS

N_PAIRS = 60


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_image_pairs(tmp_path_factory.mktemp("images"), N_PAIRS)


def _flags(pairs: str, out: Path, **options: str) -> list[str]:
    settings = {"--pairs": pairs, "--out": str(out), "--slice-pairs": "4", "--workers": "1"}
    settings |= {"--outputs": "keypoints,flow,confidence", **options}
    return [word for setting in settings.items() for word in setting]


def _start(pairs: str, out: Path, seconds_per_pair: float = 0.1, *, on_ray: bool = True) -> MatchProcess:
    """A job process, to be killed."""
    log = out.with_name(f"{out.name}-{time.monotonic_ns()}.log")
    return MatchProcess(*_flags(pairs, out), log=log, on_ray=on_ray, SLOW_MATCHER_SECONDS=str(seconds_per_pair))


def _run(pairs: str, out: Path, **options: str) -> Finished:
    """The same job without Ray and without kills, to its end."""
    return run_job("match", [*MATCHER, *_flags(pairs, out, **options)])


def _results(out: Path) -> pa.Table:
    return read_matches(str(out), RESULT_COLUMNS)


@pytest.fixture(scope="module")
def untouched(pairs: str, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The result of an undisturbed run, with other slices, batches and workers than the killed ones."""
    out = tmp_path_factory.mktemp("untouched") / "run"
    scheduling = {"--slice-pairs": "17", "--batch-pairs": "5", "--workers": "2"}
    finished = _run(pairs, out, **scheduling)
    assert finished.code == 0, finished.stderr
    results = _results(out)
    assert results.num_rows == N_PAIRS
    assert set(results["status"].to_pylist()) == {"ok"}
    return results


@pytest.mark.parametrize("on_ray", [True, False])
@pytest.mark.parametrize("seed", [pytest.param(1, marks=pytest.mark.long), 2])  # 2 kills two workers
def test_killed_and_run_again_the_table_is_the_same(
    seed: int, on_ray: bool, pairs: str, untouched: pa.Table, tmp_path: Path
) -> None:
    choose = random.Random(seed)
    out = tmp_path / "run"

    job = _start(pairs, out, on_ray=on_ray)
    job.wait_for_parts(out, choose.randint(1, 4))
    _kill_worker(job)
    job.wait_for_parts(out, len(list_parts(str(out))) + choose.randint(1, 3))
    if choose.random() < 0.5:
        _kill_worker(job)
    job.kill_driver()
    committed = set(list_parts(str(out)))
    n_committed = read_matches(str(out)).num_rows
    assert n_committed < N_PAIRS, "the job was too fast to be killed half way"

    again = _run(pairs, out)
    assert again.code == 0, again.stderr

    assert _results(out).equals(untouched)
    assert committed <= set(list_parts(str(out)))
    assert verify.run(verify.Config(out=str(out))).missing == 0
    first, second = read_attempts(str(out))
    assert first.ended is None
    assert second.counts == {"ok": N_PAIRS - n_committed}


def _kill_worker(job: MatchProcess) -> None:
    job.wait_for(job.workers)
    for worker in job.workers():
        worker.send_signal(signal.SIGKILL)
        psutil.wait_procs([worker], timeout=30)


def test_sigterm_commits_what_is_in_flight_and_the_rest_is_done_later(
    pairs: str, untouched: pa.Table, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    job = _start(pairs, out, seconds_per_pair=1)  # long enough for the second to come and go
    job.wait_for_parts(out, 1)

    second = _run(pairs, out)
    assert second.code == 2
    assert "is in use: attempt 1" in second.stderr

    job.signal(signal.SIGTERM)
    assert job.wait() == 130
    n_committed = read_matches(str(out)).num_rows
    (attempt,) = read_attempts(str(out))
    assert attempt.counts == {"ok": n_committed}
    assert n_committed < N_PAIRS
    assert not (out / "_SUCCESS").exists()

    again = _run(pairs, out)
    assert again.code == 0, again.stderr
    assert _results(out).equals(untouched)


def test_a_part_that_cannot_be_written_ends_the_job_and_says_why(pairs: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "parts").write_text("a file where the folder of the parts should be")

    finished = _run(pairs, out)

    assert finished.code == 2, finished.stderr
    last = finished.stderr.splitlines()[-1]
    assert last.startswith(f"error: {out}: a part could not be written: [Errno 17] File exists")
    assert "Traceback" not in finished.stdout + finished.stderr


def test_pairs_that_kill_or_hang_their_process_are_set_aside_and_the_others_are_done(tmp_path: Path) -> None:
    pairs = write_image_pairs(tmp_path / "images", 8)
    table = pq.read_table(pairs)
    prefix = {2: "stuck-", 5: "deadly-"}
    ids = [prefix.get(n, "") + name for n, name in enumerate(table["pair_id"].to_pylist())]
    pq.write_table(table.set_column(0, PAIRS.field("pair_id"), [ids]), pairs)
    out = tmp_path / "run"

    finished = _run(pairs, out, **{"--answer-timeout": "5"})
    assert finished.code == 3, finished.stderr

    rows = {row["pair_id"]: row for row in _results(out).to_pylist()}
    assert {pair_id for pair_id, row in rows.items() if row["status"] == "ok"} == {*ids} - {ids[2], ids[5]}
    expected = ((ids[5], "died", "its process died 2 times"), (ids[2], "timeout", "no answer in time"))
    for pair_id, kind, happened in expected:
        assert (rows[pair_id]["error_stage"], rows[pair_id]["error_kind"]) == ("worker", kind)
        assert happened in rows[pair_id]["error_message"]
        assert "to try it again, remove" in rows[pair_id]["error_message"]
    assert len(list((out / "quarantine").iterdir())) == 2
