"""Matching by processes of this machine, without Ray."""

import os
import signal
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
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
from pipeline.matching import local_matching
from pipeline.matching.local_matching import LocalMatching, most_processes
from pipeline.matching.local_process import MatcherProcess
from pipeline.matching.local_worker import MatcherFacts
from pipeline.matching.options import MatchConfig, MatchOptions
from pipeline.matching.plan import Slice
from pipeline.matching.stages import Committed, StageConfig
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


def _parts(slices: list[Slice], stage: StageConfig, *, most: int = 1) -> list[Committed]:
    """The parts of all slices."""
    with (
        MatcherProcess(stage.matching, "cpu") as process,
        closing(LocalMatching(process, slices, stage, most=most)) as local,
    ):
        return list(local.parts())


@pytest.fixture
def _always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any work is worth a process, and is given in slices as small as there are processes for."""
    monkeypatch.setattr(local_matching, "SECONDS_A_PROCESS", 1e-6)
    monkeypatch.setattr(local_matching, "_LEAST_PAIRS", 1)


def _once_heard(process: MatcherProcess) -> MatcherProcess:
    """That process, when it has answered or ended, however slowly it began: before all is matched by the first."""
    assert process.connection.poll(120)
    return process


def _is_seen_to_end(process: MatcherProcess, seconds: float) -> bool:
    """Whether nothing comes from a process but its end, after what it has sent, within that time."""
    try:
        while process.connection.poll(seconds):
            process.receive()
    except EOFError:
        return True
    return False


def _workers(stage: StageConfig) -> set[str]:
    return set(read_matches(stage.run.out, ["worker"])["worker"].to_pylist())


@pytest.mark.parametrize("matcher", ["SlowMatcher", "with_a_thread"])
@pytest.mark.parametrize("most", [1, 2])
@pytest.mark.usefixtures("_always_worth_it")
def test_pairs_that_kill_or_hang_a_process_are_set_aside_and_every_other_is_matched_once(
    most: int, matcher: str, tmp_path: Path
) -> None:
    """Whether the processes are copies or not."""
    directions = ("source_to_target", "target_to_source")
    slices = _slices(tmp_path, {1: "deadly-", 6: "stuck-", 7: "bad-"})
    matching = _matching(matcher=f"slow_matcher:{matcher}", options=MatchOptions(directions=directions))
    stage = _stage(tmp_path, matching)

    parts = _parts(slices, stage, most=most)

    reasons = sum((Counter(part["reasons"]) for part in parts), Counter[str]())
    assert reasons == {"ok": 18, "worker: died": 2, "worker: timeout": 2, "match: ArithmeticError": 2}
    rows = read_matches(stage.run.out, ["pair_id", "direction", "status", "error_kind"]).to_pylist()
    assert len(rows) == 24
    failed = {row["pair_id"].split("-")[0]: row["error_kind"] for row in rows if row["status"] == "error"}
    assert failed == {"deadly": "died", "stuck": "timeout", "bad": "ArithmeticError"}
    assert len(storage.list_files(storage.join(stage.run.out, "quarantine"), ".json")) == 2


def test_an_image_that_kills_the_process_while_others_are_matched_costs_its_pair_alone(tmp_path: Path) -> None:
    """It is decoded beside the matching of the slice before, whose pairs are matched again and set nothing aside."""
    slices, stage = _slices(tmp_path, {}), _stage(tmp_path, _matching(matcher="slow_matcher:with_deadly_images"))
    table = pq.read_table(slices[0].file)
    uris = [uri if n != 6 else f"{uri}.deadly" for n, uri in enumerate(table["source_uri"].to_pylist())]
    pq.write_table(
        table.set_column(table.column_names.index("source_uri"), PAIRS.field("source_uri"), [uris]), slices[0].file
    )

    _parts(slices, stage)

    rows = read_matches(stage.run.out, ["pair_id", "status", "error_stage", "error_kind", "error_message"]).to_pylist()
    assert len(rows) == N_PAIRS
    (failed,) = [row for row in rows if row["status"] == "error"]
    assert (failed["pair_id"], failed["error_stage"], failed["error_kind"]) == ("pair-0006", "worker", "died")
    assert "at stage decode" in failed["error_message"]


@pytest.mark.usefixtures("_always_worth_it")
def test_another_process_takes_part_where_there_is_work_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOW_MATCHER_SECONDS", "0.5")
    stage = _stage(tmp_path, _matching())

    parts = _parts(_slices(tmp_path, {}), stage, most=2)

    assert sum(part["reasons"]["ok"] for part in parts) == N_PAIRS
    assert len(_workers(stage)) == 2
    assert sorted(read_matches(stage.run.out)["pair_id"].to_pylist()) == [f"pair-{n:04}" for n in range(N_PAIRS)]


def test_a_few_pairs_are_shared_by_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are there at once; but not one for each pair, which would read its images alone."""
    monkeypatch.setenv("SLOW_MATCHER_SECONDS", "0.2")
    monkeypatch.setattr(local_matching, "_LEAST_PAIRS", 4)
    stage = _stage(tmp_path, _matching())

    parts = _parts(_slices(tmp_path, {}), stage, most=8)

    assert [part["reasons"]["ok"] for part in parts] == [4, 4, 4]
    assert len(_workers(stage)) == 3


def test_little_work_is_not_worth_another_process(tmp_path: Path) -> None:
    """By the pace of the first slices the rest takes a fraction of a second."""
    stage = _stage(tmp_path, _matching(matcher="slow_matcher:with_a_thread"))

    _parts(_slices(tmp_path, {}), stage, most=8)

    assert len(_workers(stage)) == 1


@pytest.mark.usefixtures("_always_worth_it")
def test_a_process_that_dies_of_loading_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the memory is enough for one."""
    monkeypatch.setenv("SLOW_MATCHER_SECONDS", "0.2")
    stage = _stage(tmp_path, _matching(matcher="slow_matcher:with_a_thread"))
    started = []

    def another(process: MatcherProcess, device: str | None = None) -> MatcherProcess:
        started.append(_once_heard(MatcherProcess(_matching(matcher="slow_matcher:dies"), device or "cpu")))
        return started[-1]

    monkeypatch.setattr(MatcherProcess, "another", another)

    parts = _parts(_slices(tmp_path, {}), stage, most=2)

    assert sum(part["reasons"]["ok"] for part in parts) == N_PAIRS
    assert len(_workers(stage)) == len(started) == 1


@pytest.mark.usefixtures("_always_worth_it")
def test_a_process_that_finds_no_matcher_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As where its weights are fetched and the network is gone."""
    monkeypatch.setenv("SLOW_MATCHER_SECONDS", "0.2")
    stage = _stage(tmp_path, _matching(matcher="slow_matcher:with_a_thread"))
    other = _matching(matcher="nothing")
    monkeypatch.setattr(
        MatcherProcess, "another", lambda _process, device=None: _once_heard(MatcherProcess(other, "cpu"))
    )

    parts = _parts(_slices(tmp_path, {}), stage, most=2)

    assert sum(part["reasons"]["ok"] for part in parts) == N_PAIRS
    assert "note: going on with one process less: there is no matcher 'nothing'" in capsys.readouterr().err


def test_a_matcher_that_is_not_the_runs_matches_nothing(tmp_path: Path) -> None:
    """Its weights were changed after the run began, and a process loads them later."""
    stage = _stage(tmp_path, _matching())
    changed = replace(stage, run=replace(stage.run, matcher_fingerprint="quick"))

    with pytest.raises(ValueError, match="was changed while the run went on: its fingerprint was quick and is slow"):
        _parts(_slices(tmp_path, {}), changed)


def test_a_process_that_cannot_begin_ends_the_job(tmp_path: Path) -> None:
    """Another would fail the same way, and so on."""
    stage = _stage(tmp_path, _matching())
    storage.write_bytes(storage.join(stage.run.out, "quarantine", "pair.json"), b"")

    with pytest.raises(ValueError, match=r"pair\.json is damaged"):
        _parts(_slices(tmp_path, {}), stage)


def test_a_pair_that_kills_its_process_where_no_quarantine_sees_it_ends_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_matching, "_MOST_DEATHS", 1)  # the quarantine sets it aside after two

    with pytest.raises(ClusterError, match="1 processes died at the same pair, the last by signal 9"):
        _parts(_slices(tmp_path, {1: "deadly-"}), _stage(tmp_path, _matching()))


@pytest.mark.parametrize("deadly", [0, 2, 7])
def test_once_the_deadly_pair_is_found_the_others_are_matched_together_again(deadly: int, tmp_path: Path) -> None:
    """What a slice of any size has in parts of one pair each is what comes before it."""
    first, *_ = _slices(tmp_path, {deadly: "deadly-"})
    whole, stage = replace(first, rows=np.arange(N_PAIRS, dtype=np.int32)), _stage(tmp_path, _matching())

    parts = _parts([whole], stage)

    reasons = [part["reasons"] for part in parts]
    assert reasons[: deadly + 1] == [{"ok": 1}] * deadly + [{"worker: died": 1}]
    assert all(part["ok"] > 1 for part in reasons[deadly + 1 :])
    assert sorted(read_matches(stage.run.out)["pair_id"].to_pylist()) == sorted(
        f"{'deadly-' if n == deadly else ''}pair-{n:04}" for n in range(N_PAIRS)
    )


def test_where_several_pairs_of_a_slice_are_deadly_the_rest_is_matched_one_by_one(tmp_path: Path) -> None:
    """To match them together again each time would cost one more death, or one more answer timeout, a pair."""
    first, *_ = _slices(tmp_path, {1: "deadly-", 3: "deadly-", 5: "deadly-"})
    stage, deaths = _stage(tmp_path, _matching()), []
    with (
        MatcherProcess(stage.matching, "cpu") as process,
        closing(
            LocalMatching(
                process,
                [replace(first, rows=np.arange(8, dtype=np.int32))],
                stage,
                most=1,
                on_death=lambda _ending, n_pairs: deaths.append(n_pairs),
            )
        ) as local,
    ):
        reasons = [part["reasons"] for part in local.parts()]

    ok, died = {"ok": 1}, {"worker: died": 1}
    assert reasons == [ok, died, ok, died, ok, died, ok, ok]
    assert deaths == [8, 1, 1, 6, 1, 1, 1, 1]


def test_each_death_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first took a slice and the one ahead of it along, the others a pair each."""
    stage, deaths = _stage(tmp_path, _matching()), []

    with (
        MatcherProcess(stage.matching, "cpu") as process,
        closing(
            LocalMatching(
                process, _slices(tmp_path, {5: "deadly-"}), stage, most=1, on_death=lambda *death: deaths.append(death)
            )
        ) as local,
    ):
        list(local.parts())

    assert deaths == [("signal 9", 8), ("signal 9", 1), ("signal 9", 1)]
    assert "note: a process died (signal 9): 4 pairs that it had" in capsys.readouterr().err


def test_a_signal_to_all_processes_is_for_the_driver_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch systems send it to each; those that match finish what they have."""
    monkeypatch.setenv("SLOW_MATCHER_SECONDS", "0.3")
    stage, deaths = _stage(tmp_path, _matching()), []

    with (
        MatcherProcess(stage.matching, "cpu") as process,
        closing(
            LocalMatching(process, _slices(tmp_path, {}), stage, most=1, on_death=lambda *death: deaths.append(death))
        ) as local,
    ):
        parts = local.parts()
        first = next(parts)
        child = psutil.Process(local._members[0].process.pid)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(child.pid, number)
        committed = [first, *parts]

    assert sum(part["reasons"]["ok"] for part in committed) == N_PAIRS
    assert deaths == []


def test_where_the_only_process_cannot_be_started_again_the_job_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = _matching(matcher="slow_matcher:dies")
    monkeypatch.setattr(MatcherProcess, "another", lambda _process, device=None: MatcherProcess(dying, "cpu"))

    with pytest.raises(ClusterError, match="the process that loads the matcher ended: signal 9"):
        _parts(_slices(tmp_path, {1: "deadly-"}), _stage(tmp_path, _matching(matcher="slow_matcher:with_a_thread")))


def test_copies_are_gone_when_the_matching_is_closed(tmp_path: Path) -> None:
    """None of them is left for the system to keep in mind, be it dead."""
    slices, stage = _slices(tmp_path, {1: "deadly-"}), _stage(tmp_path, _matching())
    with MatcherProcess(stage.matching, "cpu") as process:
        with closing(LocalMatching(process, slices, stage, most=1)) as local:
            next(local.parts())
            assert len(psutil.Process(process.pid).children()) == 1
        assert psutil.Process(process.pid).children() == []
        process.another().close()


@pytest.mark.usefixtures("_always_worth_it")
def test_where_the_process_that_was_copied_is_gone_another_is_started_anew(tmp_path: Path) -> None:
    slices, stage, deaths = _slices(tmp_path, {1: "deadly-"}), _stage(tmp_path, _matching()), []
    with (
        MatcherProcess(stage.matching, "cpu") as process,
        closing(
            LocalMatching(process, slices, stage, most=1, on_death=lambda ending, _n_pairs: deaths.append(ending))
        ) as local,
    ):
        os.kill(process.pid, signal.SIGKILL)
        reasons = sum((Counter(part["reasons"]) for part in local.parts()), Counter[str]())

    assert reasons == {"ok": 11, "worker: died": 1}
    assert deaths[0] == "an end that is not known"


@pytest.mark.usefixtures("_always_worth_it")
def test_a_process_that_was_started_anew_is_not_copied_while_it_matches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the first process nor its copy is there any more when the work turns out to be worth another one."""
    monkeypatch.setattr(local_matching, "_LEAST_PAIRS", 8)  # one copy
    slices, stage = _slices(tmp_path, {}), _stage(tmp_path, _matching())
    with (
        MatcherProcess(stage.matching, "cpu") as process,
        closing(LocalMatching(process, slices, stage, most=2)) as local,
    ):
        for each in (process, local._members[0].process):
            os.kill(each.pid, signal.SIGKILL)
        assert sum(part["reasons"]["ok"] for part in local.parts()) == N_PAIRS


def test_a_death_is_seen_though_processes_that_the_matcher_began_live_on(tmp_path: Path) -> None:
    """They have what the dead one had open."""
    stage = _stage(tmp_path, _matching(matcher="slow_matcher:WithHelpers"))
    with (
        MatcherProcess(stage.matching, "cpu") as process,
        closing(LocalMatching(process, _slices(tmp_path, {}), stage, most=1)) as local,
    ):
        next(local.parts())
        copy = local._members[0].process
        os.kill(copy.pid, signal.SIGSTOP)  # it begins no more of them
        helpers = psutil.Process(copy.pid).children()
        assert len(helpers) >= 2
        os.kill(copy.pid, signal.SIGKILL)
        try:
            assert _is_seen_to_end(copy, seconds=10)
        finally:
            for helper in helpers:
                helper.kill()


def test_processes_that_the_matcher_began_end_with_the_job(tmp_path: Path) -> None:
    """Nobody else would end them: they are of no terminal."""
    stage = _stage(tmp_path, _matching(matcher="slow_matcher:WithHelpers"))
    with (
        MatcherProcess(stage.matching, "cpu") as process,
        closing(LocalMatching(process, _slices(tmp_path, {}), stage, most=1)) as local,
    ):
        list(local.parts())
        helpers = psutil.Process(local._members[0].process.pid).children()

    assert len(helpers) >= 2
    _, alive = psutil.wait_procs(helpers, timeout=10)
    assert all(helper.status() == psutil.STATUS_ZOMBIE for helper in alive)


@pytest.mark.parametrize("matcher", ["WithHelpers", "with_helpers_and_a_thread"])
def test_processes_that_the_matcher_began_end_with_the_one_that_matches(matcher: str, tmp_path: Path) -> None:
    """Be it long before the job does: each process that is begun in its place begins more of them."""
    slices, stage = _slices(tmp_path, {}), _stage(tmp_path, _matching(matcher=f"slow_matcher:{matcher}"))
    with (
        MatcherProcess(stage.matching, "cpu") as process,
        closing(LocalMatching(process, slices, stage, most=1)) as local,
    ):
        parts = local.parts()
        next(parts)
        pid = local._members[0].process.pid
        os.kill(pid, signal.SIGSTOP)  # it begins no more of them
        helpers = psutil.Process(pid).children()
        os.kill(pid, signal.SIGKILL)
        list(parts)
        _, alive = psutil.wait_procs(helpers, timeout=10)
        assert len(helpers) >= 2
        assert all(helper.status() == psutil.STATUS_ZOMBIE for helper in alive)


@pytest.mark.parametrize("matcher", ["SlowMatcher", "with_a_thread"])
def test_a_death_is_seen_where_ends_of_processes_are_ignored(matcher: str, tmp_path: Path) -> None:
    """As some launchers have it, and what they start after them: the system then keeps no word of an end."""
    stage = _stage(tmp_path, _matching(matcher=f"slow_matcher:{matcher}"))
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        parts = _parts(_slices(tmp_path, {1: "deadly-"}), stage)
    finally:
        signal.signal(signal.SIGCHLD, before)

    assert sum((Counter(part["reasons"]) for part in parts), Counter[str]()) == {"ok": 11, "worker: died": 1}


def test_a_process_that_dies_with_nothing_to_do_is_replaced(tmp_path: Path) -> None:
    slices, stage = _slices(tmp_path, {}), _stage(tmp_path, _matching())
    with (
        MatcherProcess(stage.matching, "cpu") as process,
        closing(LocalMatching(process, slices, stage, most=1)) as local,
    ):
        child = psutil.Process(local._members[0].process.pid)
        os.kill(child.pid, signal.SIGKILL)
        assert sum(part["reasons"]["ok"] for part in local.parts()) == N_PAIRS


def test_what_is_begun_is_finished_and_the_rest_is_left(tmp_path: Path) -> None:
    """The process has one slice more than the one that it matches."""
    slices, stage = _slices(tmp_path, {}), _stage(tmp_path, _matching())

    with (
        MatcherProcess(stage.matching, "cpu") as process,
        closing(LocalMatching(process, slices, stage, most=1)) as local,
    ):
        parts: list[Committed] = []
        parts.extend(local.parts(is_stopped=lambda: bool(parts)))

    assert len(parts) == 2
    assert sorted(read_matches(stage.run.out)["pair_id"].to_pylist()) == [f"pair-{n:04}" for n in range(8)]


def test_the_first_results_come_soon_and_the_last_slices_are_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter of what waits is given, where two processes may be at it, but no more than a slice."""
    monkeypatch.setattr(local_matching, "_LEAST_PAIRS", 2)
    stage = _stage(tmp_path, _matching())

    parts = _parts(_slices(tmp_path, {}), stage, most=2)

    assert [part["reasons"]["ok"] for part in parts] == [2, 2, 2, 2, 2, 2]


def test_after_a_request_to_stop_nothing_is_begun(tmp_path: Path) -> None:
    stage = _stage(tmp_path, _matching())
    storage.write_bytes(stage.stop_file, b"")

    assert _parts(_slices(tmp_path, {}), stage) == []


def test_a_part_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    stage = _stage(tmp_path, _matching())
    Path(stage.run.out).mkdir()
    Path(stage.run.out, "parts").write_text("a file where the folder of the parts should be")

    with pytest.raises(OSError, match=r"a part could not be written: .*File exists"):
        _parts(_slices(tmp_path, {}), stage)


@pytest.mark.parametrize(
    ("n_gpus", "gpus_per_process", "cores", "memory_gib", "most"),
    [(0, 1, 8, 64, 8), (0, 1, 8, 4, 2), (0, 1, 8, 1, 1), (4, 1, 2, 4, 4), (2, 0.5, 2, 4, 4), (1, 2, 2, 4, 1)],
)
def test_one_process_a_core_as_far_as_memory_goes_or_what_shares_the_gpus(
    n_gpus: int, gpus_per_process: float, cores: int, memory_gib: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process takes 1.5 GiB."""
    monkeypatch.setattr(local_matching, "usable_cores", lambda: cores)
    monkeypatch.setattr(local_matching, "free_memory", lambda: memory_gib * 2**30)
    facts = MatcherFacts(fingerprint="f", squashed_side=None, has_salience=None, n_gpus=n_gpus)

    assert most_processes(facts, gpus_per_process) == most


def test_a_process_ends_with_its_driver_in_the_middle_of_matching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the next slices decoded and waiting; the next attempt has the folder to itself at once."""
    monkeypatch.setenv("SLOW_MATCHER_SECONDS", "60")
    stage = _stage(tmp_path, _matching(answer_timeout=600.0))
    with MatcherProcess(stage.matching, "cpu") as process:
        process.facts()
        child = psutil.Process(process.pid)
        process.send(stage)
        for work in _slices(tmp_path, {}):
            process.send(work)
        while not any(name.startswith("match") for name in storage.file_names(stage.in_progress_folder)):
            time.sleep(0.05)
        time.sleep(0.5)  # the next slice is decoded

        process.connection.close()

        assert child.wait(10) == 1
