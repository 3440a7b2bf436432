"""The jobs on a run over ten pairs with --limit 4 that stopped after three."""

import time
from pathlib import Path

import pytest
from make import match_rows, pair_row, run_description, write_pairs

from jobs import compact, evaluate, match, retry_errors, status, verify
from pipeline.evaluation.metrics import load_metrics
from pipeline.io import storage
from pipeline.io.manifest import Manifest
from pipeline.report.page import render_report
from pipeline.report.run_summary import coverage
from pipeline.runs.folder import Run, open_run, read_run
from pipeline.runs.lease import Attempt, Owner
from pipeline.runs.parts import read_matches, write_part
from pipeline.runs.selection import planned_pairs

BOXES = {"source_box_xyxy": [0.0, 0.0, 40.0, 30.0], "target_box_xyxy": [0.0, 0.0, 40.0, 30.0]}
ERROR = {"status": "error", "error_stage": "fetch", "error_kind": "timeout"}
DIED = Owner(host_id="another-host", pid=1, process_started="1")


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return write_pairs(tmp_path / "pairs.parquet", [pair_row(f"pair-{number}", **BOXES) for number in range(10)])


@pytest.fixture
def run(pairs: str, tmp_path: Path) -> Run:
    out = str(tmp_path / "run")
    run = open_run(out, run_description(pairs, out=out, matcher="identity", limit=4))
    points = pair_row("")["target_xy_px"]
    answer = {"query_xy_px": points, "reference_xy_px": points, "query_hw": [30, 40], "reference_hw": [30, 40]}
    rows = [{"pair_id": "pair-0", **answer}, {"pair_id": "pair-1", **answer}, {"pair_id": "pair-2", **ERROR}]
    write_part(run.out, match_rows(*rows))
    counts = {"fetch: timeout": 1, "ok": 2}
    attempt = Attempt(number=1, owner=DIED, started=0.0, written=time.time(), ended=1.0, rows=4, counts=counts)
    storage.write_bytes(attempt.file(run.out), attempt.to_json())
    return run


def test_status_and_verify_count_four(run: Run) -> None:
    current = status.run(status.Config(out=run.out))
    assert (current.rows, current.completed, current.reasons) == (4, 3, {"fetch: timeout": 1, "ok": 2})

    with pytest.raises(ValueError, match=r"the run is not finished \(no _SUCCESS\).*; 1 rows are missing$"):
        verify.run(verify.Config(out=run.out))


def test_evaluate_and_report_score_four(run: Run, pairs: str, tmp_path: Path) -> None:
    metrics = str(tmp_path / "metrics.parquet")
    flags = {"matches": run.out, "pairs": pairs, "protocol": ("spair",), "out": metrics, "alpha": (0.1,)}
    evaluate.run(evaluate.Config(**flags))

    (whole,) = load_metrics(metrics).query("group_kind == 'all'").to_dict("records")
    assert (whole["n_pairs"], whole["n_failed"], whole["pck_image"]) == (4, 2, 50.0)
    with Manifest(pairs) as manifest:
        rows = coverage(read_matches(run.out), planned_pairs(manifest, run.out).num_rows)
    assert rows == [{"direction": "source_to_target", "ok": 2, "failed": 1, "missing": 1}]


def test_compaction_changes_nothing_of_that(run: Run, pairs: str) -> None:
    write_part(run.out, match_rows({"pair_id": "pair-2", "attempt": 2, **ERROR}))

    assert compact.run(compact.Config(out=run.out)) == 1

    with Manifest(pairs) as manifest:
        assert (read_run(run.out).limit(), planned_pairs(manifest, run.out).num_rows) == (4, 4)


def test_errors_are_asked_again_of_the_four(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write_part(run.out, match_rows({"pair_id": "pair-7", **ERROR, "error_kind": "not_found"}))
    configs: list[match.Config] = []
    monkeypatch.setattr(match, "run", lambda config: configs.append(config) or config.out)

    retry_errors.run(retry_errors.Config(out=run.out, kinds=("fetch:timeout",)))
    with pytest.raises(ValueError, match=r"has no errors fetch:not_found; it has fetch:timeout \(1\)"):
        retry_errors.run(retry_errors.Config(out=run.out, kinds=("fetch:not_found",)))
    with pytest.raises(ValueError, match=r"--kinds takes all, .*; got fetch:timeuot; the kinds of fetch are not_found"):
        retry_errors.run(retry_errors.Config(out=run.out, kinds=("fetch:timeuot",)))

    (config,) = configs
    assert (config.limit, config.retry) == (4, ("fetch:timeout",))


def test_another_manifest_is_named_by_evaluate_and_refused_by_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [pair_row(f"pair-{number}", **BOXES) for number in range(2)]
    moved = [[x + 1, y] for x, y in pair_row("")["target_xy_px"]]
    matched = write_pairs(tmp_path / "matched.parquet", rows)
    corrected = write_pairs(tmp_path / "corrected.parquet", [{**row, "target_xy_px": moved} for row in rows])
    run = open_run(str(tmp_path / "run"), run_description(matched, matcher="identity"))
    points = pair_row("")["source_xy_px"]
    sizes = {"query_hw": [30, 40], "reference_hw": [30, 40]}
    write_part(
        run.out,
        match_rows(
            *({"pair_id": row["pair_id"], "query_xy_px": points, "reference_xy_px": points, **sizes} for row in rows)
        ),
    )
    metrics = str(tmp_path / "metrics.parquet")
    flags = {"matches": run.out, "protocol": ("spair",), "out": metrics, "alpha": (0.01,)}

    evaluate.run(evaluate.Config(pairs=matched, **flags))
    assert "is not the manifest" not in capsys.readouterr().err
    evaluate.run(evaluate.Config(pairs=corrected, **flags))
    assert f"note: {corrected} is not the manifest that {run.out} was matched with" in capsys.readouterr().err
    with pytest.raises(
        ValueError, match=r"metrics\.parquet was evaluated with another manifest than .*matched\.parquet"
    ):
        render_report(metrics, run.out, matched)
