"""Matching in a process of this machine, without Ray."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from command import SUPPORT
from make import run_description, write_image_pairs

from pipeline.cluster.errors import ClusterError
from pipeline.io import storage
from pipeline.matching.local_process import LocalMatching, MatcherProcess
from pipeline.matching.options import MatchConfig, MatchOptions
from pipeline.matching.plan import Slice
from pipeline.matching.points import parse_points
from pipeline.matching.stages import StageConfig
from pipeline.runs.folder import open_run
from pipeline.runs.parts import read_matches
from schemas.pairs import PAIRS

N_PAIRS = 12


@pytest.fixture(autouse=True)
def _matchers_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SUPPORT))


def _matching(**options: Any) -> MatchConfig:
    return MatchConfig(**{"matcher": "slow_matcher:SlowMatcher", "answer_timeout": 2.0, **options})


def _stage(folder: Path, matching: MatchConfig) -> StageConfig:
    run = open_run(str(folder / "run"), run_description(), dry_run=True)
    return StageConfig(
        run=run,
        attempt=1,
        stop_file=str(folder / "run" / "stop"),
        in_progress_folder=str(folder / "run" / "begun"),
        matching=matching,
    )


def _slices(folder: Path, special: dict[int, str]) -> list[Slice]:
    """Slices of four pairs each, some of which have a prefix to their id."""
    file = write_image_pairs(folder / "images", N_PAIRS)
    table = pq.read_table(file)
    ids = [special.get(n, "") + name for n, name in enumerate(table["pair_id"].to_pylist())]
    pq.write_table(table.set_column(0, PAIRS.field("pair_id"), [ids]), file)
    return [Slice(file=file, row_group=0, rows=np.arange(n, n + 4, dtype=np.int32)) for n in range(0, N_PAIRS, 4)]


def test_pairs_that_kill_or_hang_the_process_are_set_aside_and_every_other_is_matched_once(tmp_path: Path) -> None:
    directions = ("source_to_target", "target_to_source")
    slices = _slices(tmp_path, {1: "deadly-", 6: "stuck-", 7: "bad-"})
    matching = _matching(options=MatchOptions(directions=directions))
    stage = _stage(tmp_path, matching)

    with MatcherProcess(matching, "cpu") as process:
        parts = list(LocalMatching(process, slices, stage).parts())

    reasons = sum((Counter(part["reasons"]) for part in parts), Counter[str]())
    assert reasons == {"ok": 18, "worker: died": 2, "worker: timeout": 2, "match: ArithmeticError": 2}
    rows = read_matches(stage.run.out, ["pair_id", "direction", "status", "error_kind"]).to_pylist()
    assert len(rows) == 24
    failed = {row["pair_id"].split("-")[0]: row["error_kind"] for row in rows if row["status"] == "error"}
    assert failed == {"deadly": "died", "stuck": "timeout", "bad": "ArithmeticError"}
    assert len(storage.list_files(storage.join(stage.run.out, "quarantine"), ".json")) == 2


def test_what_is_not_begun_can_be_taken_and_what_is_begun_is_finished(tmp_path: Path) -> None:
    slices = _slices(tmp_path, {})
    stage = _stage(tmp_path, _matching())

    with MatcherProcess(stage.matching, "cpu") as process:
        local = LocalMatching(process, slices, stage)
        first = next(local.parts())
        taken = list(local.waiting)
        local.waiting.clear()
        rest = list(local.parts())

    assert [work.rows.tolist() for work in taken] == [[8, 9, 10, 11]]
    assert [part["reasons"] for part in [first, *rest]] == [{"ok": 4}, {"ok": 4}]
    assert sorted(read_matches(stage.run.out)["pair_id"].to_pylist()) == [f"pair-{n:04}" for n in range(8)]


def test_the_first_results_come_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.matching.local_process._FIRST_PAIRS", 3)
    slices = _slices(tmp_path, {})
    stage = _stage(tmp_path, _matching())

    with MatcherProcess(stage.matching, "cpu") as process:
        parts = list(LocalMatching(process, slices, stage).parts())

    assert [part["reasons"]["ok"] for part in parts] == [3, 1, 4, 4]


def test_after_a_request_to_stop_nothing_is_begun(tmp_path: Path) -> None:
    slices = _slices(tmp_path, {})
    stage = _stage(tmp_path, _matching())
    storage.write_bytes(stage.stop_file, b"")

    with MatcherProcess(stage.matching, "cpu") as process:
        assert list(LocalMatching(process, slices, stage).parts()) == []


def test_a_part_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    stage = _stage(tmp_path, _matching())
    Path(stage.run.out).mkdir()
    Path(stage.run.out, "parts").write_text("a file where the folder of the parts should be")

    with (
        MatcherProcess(stage.matching, "cpu") as process,
        pytest.raises(OSError, match=r"a part could not be written: .*File exists"),
    ):
        list(LocalMatching(process, _slices(tmp_path, {}), stage).parts())


def test_facts_of_a_matcher() -> None:
    salient = MatchOptions(points=parse_points("salient:3"))
    with MatcherProcess(_matching(options=salient), "auto") as process:
        assert (process.facts().fingerprint, process.facts().squashed_side) == ("slow", None)
        assert process.facts().has_salience is False
    with MatcherProcess(_matching(matcher="nemf-small", options=salient), "cpu") as process:
        assert process.is_loaded(60)
        assert (process.facts().squashed_side, process.facts().has_salience) == (256, True)
        assert len(process.facts().fingerprint) == 16


@pytest.mark.parametrize(
    ("matcher", "error", "message"),
    [
        ("nothing", ValueError, "there is no matcher 'nothing'"),
        ("slow_matcher:dies", ClusterError, "the process that loads the matcher ended: signal 9"),
    ],
)
def test_a_matcher_that_cannot_be_loaded(matcher: str, error: type[Exception], message: str) -> None:
    with MatcherProcess(_matching(matcher=matcher), "cpu") as process, pytest.raises(error, match=message):
        process.facts()


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that starts a MatcherProcess, says so and waits."""
    script = (
        "import time; from pipeline.matching.local_process import MatcherProcess as M; "
        "from pipeline.matching.options import MatchConfig as C\n"
        "if True:\n with M(C(matcher='slow_matcher:SlowMatcher'), 'cpu') as p:\n"
        "  p.facts(); print('loaded', flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(SUPPORT), *filter(None, sys.path)])}
    started = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    yield started
    started.kill()
    started.communicate()


def test_the_process_ends_with_its_driver(driver: subprocess.Popen[str]) -> None:
    assert driver.stdout is not None
    assert driver.stdout.readline() == "loaded\n"
    (child,) = psutil.Process(driver.pid).children()

    driver.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 30
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
