import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from planted_run import LOG_ODDS, identity_share, plant_run

from jobs.calibrate import main as calibrate
from jobs.evaluate import main as evaluate
from jobs.pseudo_label import main as pseudo_label
from jobs.report import main
from schemas.matches import MATCHES
from schemas.metrics import METRICS
from schemas.pairs import PAIRS


def _flags(folder: Path) -> list[str]:
    for name, schema in (("metrics", METRICS), ("matches", MATCHES), ("pairs", PAIRS)):
        pq.write_table(schema.empty_table(), folder / f"{name}.parquet")
    return [part for name in ("metrics", "matches", "pairs") for part in (f"--{name}", str(folder / f"{name}.parquet"))]


def test_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "report.html"
    assert main([*_flags(tmp_path), "--out", str(out)]) == 0
    assert out.read_text("utf-8").startswith("<!doctype html>")
    assert str(out) in capsys.readouterr().out


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "report.html"
    flags = [*_flags(tmp_path), "--out", str(out)]
    assert main([*flags, "--pairs-per-category", "-1"]) == 2
    (tmp_path / "metrics.parquet").unlink()
    assert main(flags) == 2
    assert "metrics.parquet" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("name", ["metrics", "matches", "pairs"])
def test_an_input_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str):
    flags, file = _flags(tmp_path), tmp_path / f"{name}.parquet"
    before = file.read_bytes()
    assert main([*flags, "--out", str(file)]) == 2
    assert "is also an input and would be overwritten" in capsys.readouterr().err
    assert file.read_bytes() == before


def _planted(folder: Path, **changes: Any) -> list[str]:
    """Flags of a report on a planted run, evaluated, with a calibration that adds 2 to the logit of the confidence."""
    folder.mkdir(exist_ok=True)
    run, pairs = plant_run(folder, 300)
    calibration = {
        **{"format": "nemf calibration", "version": 1, "matcher": "nemf-small", "matcher_fingerprint": "own"},
        **{"alpha": 0.1, "protocol": "spair", "signals": {"confidence": identity_share()}, "intercept": 2 - LOG_ODDS},
        **{"made_on": {"manifest": "other.parquet"}, "quality": {}, **changes},
    }
    (folder / "calibration.json").write_text(json.dumps(calibration))
    metrics = str(folder / "metrics.parquet")
    assert evaluate(["--matches", run, "--pairs", pairs, "--out", metrics, "--protocol", "spair"]) == 0
    inputs = {"metrics": metrics, "matches": run, "pairs": pairs, "calibration": str(folder / "calibration.json")}
    options = {**inputs, "out": str(folder / "report.html"), "pairs_per_category": "0"}
    return [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]


def test_a_calibration_is_judged_beside_the_confidences(tmp_path: Path):
    """Confidences that are uniform and true; with p a / (1 + p (a - 1)) in the place of p, a = e^2, ECE is .294."""
    assert main(_planted(tmp_path)) == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    errors, areas = (re.findall(rf"{name} (0\.\d+)", page) for name in (r"\(ECE\)", "AUROC"))
    own, calibrated = map(float, errors)
    assert own < 0.05
    assert calibrated == pytest.approx(0.294, abs=0.02)
    assert areas[0] == areas[1]
    assert "Correct by calibrated probability, percent" in page
    assert "made on other.parquet" in page


def test_a_calibration_of_another_matcher_or_signal_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    share = identity_share()
    for name, changes, message in (
        ("matcher", {"matcher_fingerprint": "f00d"}, "make one with nemf calibrate"),
        ("signal", {"signals": {"cycle": share}}, "cycle (match with --outputs keypoints,cycle)"),
    ):
        assert main(_planted(tmp_path / name, **changes)) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.json", "_SUCCESS", "parts/more.parquet", "attempts/00001.json"])
def test_nothing_is_written_over_what_a_run_is_kept_in(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str):
    run, pairs = plant_run(tmp_path, 5)
    inputs = ["--matches", run, "--pairs", pairs]
    before = {file: file.read_bytes() for file in Path(run).rglob("*") if file.is_file()}
    for command in (
        [calibrate, *inputs, "--out", f"{run}/{name}"],
        [evaluate, *inputs, "--out", f"{run}/{name}", "--protocol", "spair"],
        [main, *inputs, "--metrics", str(tmp_path / "m.parquet"), "--out", f"{run}/{name}"],
        [pseudo_label, *inputs, "--out", f"{run}/{name}"],
        [pseudo_label, *inputs, "--out", str(tmp_path / "l.parquet"), "--page", f"{run}/{name}"],
        [pseudo_label, *inputs, "--out", str(tmp_path / "l.parquet"), "--export", "spair", f"{run}/{name}"],
    ):
        assert command[0](command[1:]) == 2
        assert f"is what the run {run} is kept in" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in Path(run).rglob("*") if file.is_file()} == before
