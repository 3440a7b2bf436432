"""A run from beginning to end, as an operator sees it: status, metrics, events, retry, compact, verify."""

import os
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from command import SUPPORT
from make import write_image_pairs

from jobs import compact, match, retry_errors, status, verify
from jobs.command import OverBudgetError
from pipeline.cluster.connect import connected
from pipeline.io import storage
from pipeline.runs.events import read_events
from pipeline.runs.lease import RunInUseError, acquire, read_attempts
from pipeline.runs.parts import list_parts, part_sizes, read_matches
from schemas.matches import RESULT_COLUMNS
from schemas.pairs import PAIRS

N_PAIRS, N_BAD = 24, 5


@pytest.fixture(scope="module")
def _one_ray() -> Iterator[None]:
    """An embedded Ray that stays when a job ends, so that its metrics can be read."""

    @contextmanager
    def already_connected(_address: str | None) -> Iterator[None]:
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SUPPORT), prepend=os.pathsep)
        with connected("local"):
            patch.setattr("pipeline.cluster.connect.connected", already_connected)
            yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 pairs, five of which the matcher fails on, and one without an image."""
    file = write_image_pairs(tmp_path_factory.mktemp("images"), N_PAIRS)
    table = pq.read_table(file)
    ids = [f"bad-{name}" if n < N_BAD else name for n, name in enumerate(table["pair_id"].to_pylist())]
    uris = table["source_uri"].to_pylist()
    uris[-1] = "/nowhere.png"
    table = table.set_column(0, PAIRS.field("pair_id"), [ids])
    pq.write_table(table.set_column(table.column_names.index("source_uri"), "source_uri", [uris]), file)
    return file


@pytest.fixture(scope="module")
def out(_one_ray: None, pairs: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run, finished."""
    out = str(tmp_path_factory.mktemp("run") / "run")
    with pytest.raises(OverBudgetError):
        match.run(
            match.Config(pairs=pairs, out=out, matcher="slow_matcher:SlowMatcher", slice_pairs=4, address="local")
        )
    return out


REASONS = {"fetch: not_found": 1, "match: ArithmeticError": N_BAD, "ok": N_PAIRS - N_BAD - 1}


def test_the_event_log_tells_the_story(out: str) -> None:
    events = read_events(storage.join(out, "attempts", "00001.events"))
    by_name = Counter(event["event"] for event in events)
    committed = [event for event in events if event["event"] == "committed"]

    assert by_name == {"started": 1, "planned": 1, "committed": 6, "counted": 1, "ended": 1}
    assert [events[0]["event"], events[-1]["event"]] == ["started", "ended"]
    assert events[1]["slices"] == 6
    sizes = {uri.rsplit("/", 1)[1]: size for uri, size in part_sizes(out).items()}
    assert {event["part"]: event["bytes"] for event in committed} == sizes
    assert sum((Counter(event["reasons"]) for event in committed), Counter()) == REASONS
    assert events[-2]["over_error_budget"]


def test_prometheus_is_told_the_same(out: str) -> None:
    metrics = _scraped()

    rows = {
        (labels["status"], labels["stage"], labels["kind"]): value for labels, value in metrics["ray_nemf_rows_total"]
    }
    assert rows == {
        ("ok", "", ""): REASONS["ok"],
        ("error", "match", "ArithmeticError"): N_BAD,
        ("error", "fetch", "not_found"): 1,
    }
    assert [value for _, value in metrics["ray_nemf_committed_bytes_total"]] == [sum(part_sizes(out).values())]
    slices = Counter({labels["stage"]: 0.0 for labels, _ in metrics["ray_nemf_stage_seconds_count"]})
    for labels, value in metrics["ray_nemf_stage_seconds_count"]:
        slices[labels["stage"]] += value
    assert slices == {"decode": 6, "match": 6, "commit": 6}
    assert all(value > 0 for _, value in metrics["ray_nemf_stage_seconds_sum"])


def _scraped() -> dict[str, list[tuple[dict[str, str], float]]]:
    """The metrics that the node exports, once all rows are counted."""
    (node,) = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    for _ in range(60):
        text = urllib.request.urlopen(url, timeout=10).read().decode()
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for name, labels, value in re.findall(r"^(ray_nemf_\w+)\{(.*)\} (\S+)$", text, re.MULTILINE):
            found.setdefault(name, []).append((dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)))
        counts = found.get("ray_nemf_stage_seconds_count", [])
        rows = sum(value for _, value in found.get("ray_nemf_rows_total", []))
        if rows == N_PAIRS and sum(value for _, value in counts) == 18:
            return found
        time.sleep(0.5)
    raise AssertionError(f"not all was exported: {found}")


def test_status_says_how_it_ended(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([out]) == 0

    printed = capsys.readouterr().out
    assert f"{out}: finished" in printed
    assert f"{N_PAIRS} of {N_PAIRS} pairs done (100.0 %), {REASONS['ok']} ok" in printed
    assert status.run(status.Config(out=out)).reasons == REASONS
    assert status.main([f"{out}/nowhere"]) == 2


def test_what_is_left_alone_is_not_asked_again(out: str, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--pairs", pairs, "--out", out, "--matcher", "slow_matcher:SlowMatcher", "--error-budget", "1"]

    assert match.main([*flags, "--retry", "none"]) == 0

    assert f"{N_PAIRS} pairs: {N_PAIRS} done, 0 to do in 0 slices" in capsys.readouterr().out
    assert match.main([*flags, "--retry", "fetsch"]) == 2
    assert "--retry takes all, none, a stage" in capsys.readouterr().err


def test_errors_are_asked_again_with_the_settings_of_the_run(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert retry_errors.main([out, "--kinds", "match:ArithmeticEror"]) == 2
    printed = capsys.readouterr().err
    assert f"has no errors match:ArithmeticEror; it has fetch:not_found (1), match:ArithmeticError ({N_BAD})" in printed
    storage.write_bytes(storage.join(out, "quarantine", "old.json"), b'{"pair_id": "x", "kind": "died", "reason": ""}')

    assert retry_errors.main([out, "--kinds", "match", "--quarantine"]) == 3

    last = read_attempts(out)[-1]
    assert last.counts == {"match: ArithmeticError": N_BAD}
    assert last.settled == {"fetch: not_found": 1, "ok": REASONS["ok"]}
    assert status.run(status.Config(out=out)).reasons == REASONS
    assert storage.list_files(storage.join(out, "quarantine"), ".json") == []


def test_compacted_it_is_the_same_run(out: str, pairs: str, capsys: pytest.CaptureFixture[str]) -> None:
    before, n_before = read_matches(out, RESULT_COLUMNS), len(list_parts(out))
    lease = acquire(out)
    with pytest.raises(RunInUseError):
        compact.run(compact.Config(out=out))
    lease.release()

    assert compact.main([out]) == 0

    assert f"{n_before} parts of" in capsys.readouterr().out
    assert read_matches(out, RESULT_COLUMNS).equals(before)
    assert len(list_parts(out)) == 1
    assert pa.concat_tables(pq.read_table(part, partitioning=None) for part in list_parts(out)).num_rows == N_PAIRS
    assert verify.run(verify.Config(out=out)).reasons == REASONS
    assert compact.main([out]) == 0
    assert "nothing to compact" in capsys.readouterr().out
    assert compact.main([out, "--target-mb", "0"]) == 2
    assert match.main(["--pairs", pairs, "--out", out, "--matcher", "slow_matcher:SlowMatcher", "--retry", "none"]) == 3


@pytest.mark.usefixtures("_one_ray")
def test_a_process_of_ray_that_cannot_begin_says_why(pairs: str, tmp_path: Path) -> None:
    """Ray itself says only that an actor died."""
    matcher = "slow_matcher:changing"
    with pytest.raises(ValueError, match=f"{matcher} was changed while the run went on: its fingerprint was "):
        match.run(match.Config(pairs=pairs, out=str(tmp_path / "run"), matcher=matcher, address="local"))
