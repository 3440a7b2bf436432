"""Rounds of random kills, many more than `make test` has time for: `make chaos`.

CHAOS_ROUNDS (default 40) and CHAOS_SEED (default 0) set their number and their seed. A round starts the job, or starts
it again, and kills something at a random moment. Whenever a run gets through to its end its table is compared, row for
row, with that of an undisturbed run, and a new run begins. CHAOS_OUT names a file for the figures.
"""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from job_process import MatchProcess
from make import write_image_pairs

from jobs import verify
from pipeline.runs.parts import list_parts, read_matches
from schemas.matches import RESULT_COLUMNS

N_PAIRS = 300
SLICE_PAIRS = 8
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "40"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))
MARK = f"NEMF_CHAOS_{os.getpid()}"
"""An environment variable that marks the processes of the rounds and their descendants."""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_image_pairs(tmp_path_factory.mktemp("images"), N_PAIRS)


class _Chaos:
    """The run folders, one after the other, and the kills in each."""

    def __init__(self, pairs: str, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.exits: Counter[str] = Counter()
        self._choose = random.Random(SEED)
        self._pairs, self._folder, self._out = pairs, folder, folder / "run"
        self._untouched = self._rows_of_an_untouched_run()

    def round(self) -> None:
        """Start the job, kill one of its processes, and record how the job ends."""
        job = self._start(self._out)
        n_parts = len(list_parts(str(self._out)))
        target, kill = self._choose.choice(
            [
                ("matching process", _kill_workers),
                ("matching process twice", _kill_workers_twice),
                ("any Ray process", self._kill_any),
                ("raylet", _kill_raylet),
                ("driver", MatchProcess.kill_driver),
                ("driver by SIGTERM", lambda job: job.signal(signal.SIGTERM)),
            ]
        )
        more = self._choose.randint(0, 6)
        delay_seconds = self._choose.uniform(0, 1)
        if job.wait_until(lambda: len(list_parts(str(self._out))) >= n_parts + more):
            time.sleep(delay_seconds)
            kill(job)
            self.counts[f"killed: {target}"] += 1
        code = job.wait()
        self.exits[f"{target}: exit {code}"] += 1
        assert code in (0, 1, 130, -signal.SIGKILL), job.log.read_text()
        self._compare_what_is_there()
        if code == 0:
            self._compare_the_end()

    def finish(self) -> None:
        """Finish the last run."""
        assert self._start(self._out).wait() == 0
        self._compare_the_end()

    def _start(self, out: Path) -> MatchProcess:
        log = self._folder / f"{time.monotonic_ns()}.log"
        return MatchProcess(
            "--pairs", self._pairs, "--out", str(out), "--slice-pairs", str(SLICE_PAIRS), "--workers", "1",
            "--outputs", "keypoints,flow,confidence", log=log, SLOW_MATCHER_SECONDS="0.02", **{MARK: "1"},
        )  # fmt: skip

    def _rows_of_an_untouched_run(self) -> pa.Table:
        out = self._folder / "untouched"
        assert self._start(out).wait() == 0
        rows = read_matches(str(out), RESULT_COLUMNS)
        assert rows.num_rows == N_PAIRS
        assert set(rows["status"].to_pylist()) == {"ok"}
        return rows

    def _compare_what_is_there(self) -> None:
        """Every part is whole, and its rows equal those of the undisturbed run."""
        for part in list_parts(str(self._out)):
            rows = pq.read_table(part).select(RESULT_COLUMNS).sort_by("pair_id")
            expected = self._untouched.filter(pc.is_in(self._untouched["pair_id"], rows["pair_id"]))
            self.counts["rows that differ"] += 0 if rows.equals(expected) else rows.num_rows

    def _compare_the_end(self) -> None:
        rows = read_matches(str(self._out), RESULT_COLUMNS)
        ids = set(rows["pair_id"].to_pylist())
        self.counts["runs that came to their end"] += 1
        self.counts["pairs lost"] += N_PAIRS - len(ids)
        self.counts["pairs twice"] += rows.num_rows - len(ids)
        self.counts["rows that differ"] += 0 if rows.equals(self._untouched) else 1
        assert verify.run(verify.Config(out=str(self._out))).ok == N_PAIRS
        left = [
            file.name for file in self._out.rglob("*") if file.name.endswith(".tmp") or file.parent.suffix == ".begun"
        ]
        self.counts["temporary files left"] += len(left)
        shutil.rmtree(self._out)

    def _kill_any(self, job: MatchProcess) -> None:
        processes = job.processes(lambda command: "ray::" in command)
        if processes:
            _kill(self._choose.choice(processes))


def _kill_workers(job: MatchProcess) -> None:
    for worker in job.workers():
        _kill(worker)


def _kill_workers_twice(job: MatchProcess) -> None:
    killed = {worker.pid for worker in job.workers()}
    _kill_workers(job)
    if job.wait_until(lambda: {worker.pid for worker in job.workers()} - killed):
        _kill_workers(job)


def _kill_raylet(job: MatchProcess) -> None:
    for process in job.processes(lambda command: "/raylet/raylet " in command):
        _kill(process)


def _kill(process: psutil.Process) -> None:
    try:
        process.send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return
    psutil.wait_procs([process], timeout=30)


def test_whatever_is_killed_whenever_no_pair_is_lost_twice_or_different(
    pairs: str, tmp_path: Path, progress: Callable[[str], None]
) -> None:
    before = _left_processes()
    chaos = _Chaos(pairs, tmp_path)
    start = time.monotonic()
    for number in range(ROUNDS):
        chaos.round()
        progress(f"round {number + 1} of {ROUNDS}: {dict(chaos.counts)}")
    chaos.finish()

    figures = {"rounds": ROUNDS, "seed": SEED, "pairs": N_PAIRS, "seconds": round(time.monotonic() - start)}
    figures |= {**dict(sorted(chaos.counts.items())), **dict(sorted(chaos.exits.items()))}
    progress(json.dumps(figures, indent=2))
    if file := os.environ.get("CHAOS_OUT"):
        Path(file).write_text(json.dumps(figures, indent=2) + "\n")
    harm = ("pairs lost", "pairs twice", "rows that differ", "temporary files left")
    assert {name: chaos.counts[name] for name in harm} == dict.fromkeys(harm, 0)
    assert sum(n for name, n in chaos.counts.items() if name.startswith("killed")) > ROUNDS // 2
    end = time.monotonic() + 60  # a worker whose raylet was killed notices after some seconds
    while (left := _left_processes() - before) and time.monotonic() < end:
        time.sleep(1)
    assert not left


@pytest.fixture
def progress(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line in spite of pytest's capture."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}", flush=True)

    return say


def _left_processes() -> set[str]:
    """Processes that the rounds started and that still run. Ray's agents overwrite their environment: of these,
    orphans."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment, name = process.environ(), process.name()
            if MARK in environment or (name.startswith("ray::") and not environment and process.ppid() == 1):
                found.add(f"{process.pid} {name}")
    return found
