import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make import run_description

from jobs.evaluate import main
from pipeline.io.manifest import Manifest
from pipeline.runs.folder import open_run
from pipeline.runs.parts import write_part
from schemas.matches import MATCHES
from schemas.pairs import PAIRS


def _plant(folder: Path, off_px: dict[str, float | None]) -> list[str]:
    """A manifest and a run of pairs of one point each, off by so many pixels (T = 100) or failed; their flags."""
    boxes = {"source_box_xyxy": [0, 0, 100, 50], "target_box_xyxy": [0, 0, 100, 50]}
    pairs: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for pair_id, off in off_px.items():
        points = {"source_xy_px": [[9, 9]], "target_xy_px": [[9, 9]]}
        pairs.append({"pair_id": pair_id, "category": pair_id[:3], "dataset": "toy", **points, **boxes})
        row = {"pair_id": pair_id, "direction": "source_to_target", "attempt": 1, "matcher": "m", "fingerprint": "f"}
        row["reference_hw"] = [60, 110]
        answer = {"status": "ok", "query_xy_px": [[9, 9]], "reference_xy_px": [[9 + (off or 0), 9]]}
        rows.append({**row, **({"status": "error", "error_stage": "fetch"} if off is None else answer)})
    pq.write_table(pa.Table.from_pylist(pairs, PAIRS), folder / "pairs.parquet")
    write_part(str(folder / "run"), pa.Table.from_pylist(rows, MATCHES))
    named = {"--matches": "run", "--pairs": "pairs.parquet", "--out": "metrics.parquet"}
    return [part for flag, name in named.items() for part in (flag, str(folder / name))]


def test_prints_the_per_category_table_and_writes_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = _plant(tmp_path, {"cat1": 0, "cat2": 12, "dog1": 4, "dog2": None})
    assert main([*flags, "--protocol", "spair,pf-pascal"]) == 0
    printed = capsys.readouterr().out
    assert "toy, protocol spair\n" in printed
    assert "4 pairs, 4 keypoints; 1 pairs failed or missing (counted wrong)" in printed
    lines = [line.split() for line in printed.splitlines()]
    assert ["cat", "2", "2", "0", "50.0", "50.0", "50.0", "50.0", "100.0"] in lines
    assert ["all", "4", "4", "1", "25.0", "25.0", "50.0", "50.0", "75.0"] in lines
    metrics = pd.read_parquet(tmp_path / "metrics.parquet")
    assert set(metrics["protocol"]) == {"spair", "pf-pascal"}


def test_five_lines_of_pandas_print_the_per_category_table(tmp_path: Path):
    main([*_plant(tmp_path, {"cat1": 0, "cat2": 12, "dog1": 4}), "--protocol", "spair"])
    metrics = pd.read_parquet(tmp_path / "metrics.parquet")
    rows = metrics[metrics["group_kind"].isin(["category", "all"]) & (metrics["subset"] == "all")]
    table = rows.pivot(index="group", columns="alpha", values="pck_image")
    assert table.loc["cat"].tolist() == [50.0, 50.0, 50.0, 50.0, 100.0]


def test_failed_pairs_are_excluded_by_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = _plant(tmp_path, {"cat1": 0, "dog1": None})
    assert main([*flags, "--protocol", "spair", "--failed", "exclude", "--alpha", "0.1"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["all", "1", "1", "1", "100.0"] in lines
    assert ["dog", "0", "0", "1", "-"] in lines


def test_a_run_with_a_limit_is_scored_on_the_pairs_it_was_to_match(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = _plant(tmp_path, {"cat1": 0, "cat2": 50, "cat3": 50})
    run, pairs = str(tmp_path / "run"), str(tmp_path / "pairs.parquet")
    run_folder = open_run(run, run_description(pairs, limit=1))
    run_folder.finish(run_folder.count(Manifest(pairs).ids(), 1))
    assert main([*flags, "--protocol", "spair", "--alpha", "0.1"]) == 0
    printed = capsys.readouterr().out
    assert ["all", "1", "1", "0", "100.0"] in [line.split() for line in printed.splitlines()]
    assert "2 matches are of pairs that this manifest does not plan" in printed


@pytest.mark.parametrize("compared", [False, True])
def test_a_run_at_other_points_than_the_manifests_has_no_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], compared: bool
):
    flags = _plant(tmp_path, {"cat1": 0})
    other = tmp_path / "other" if compared else tmp_path / "run"
    open_run(str(other), run_description(str(tmp_path / "pairs.parquet"), points="grid:6"))
    flags += ["--compare", str(other)] if compared else []
    assert main([*flags, "--protocol", "spair"]) == 2
    error = capsys.readouterr().err
    assert f"{other} was matched at --points grid:6, not at the manifest's keypoints: there is no truth" in error
    assert not (tmp_path / "metrics.parquet").exists()


def test_runs_are_compared_on_the_pairs_that_both_were_to_match(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other run was to match two of four pairs and is right on both; this one is wrong on one of these two."""
    flags = _plant(tmp_path, {"cat1": 0, "cat2": 50, "cat3": 0, "cat4": 0})
    (tmp_path / "other").mkdir()
    _plant(tmp_path / "other", {"cat1": 0, "cat2": 0})
    other = str(tmp_path / "other" / "run")
    open_run(other, run_description(str(tmp_path / "pairs.parquet"), limit=2))

    assert main([*flags, "--protocol", "spair", "--alpha", "0.1", "--compare", other, "--format", "json"]) == 0

    rows = pd.DataFrame(json.loads(capsys.readouterr().out))
    (whole,) = rows[(rows["group_kind"] == "all") & (rows["average"] == "image")].to_dict("records")
    assert (whole["n_pairs"], whole["n_failed"], whole["n_failed_other"]) == (2, 0, 0)
    assert (whole["pck"], whole["pck_other"], whole["difference"]) == (50.0, 100.0, 50.0)


@pytest.mark.parametrize(
    ("protocol", "message"),
    [("spiar", "there is no protocol 'spiar'"), ("nemf", "nemf match --direction target_to_source"), ("", "protocol")],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], protocol: str, message: str
):
    assert main([*_plant(tmp_path, {"cat1": 0}), "--protocol", protocol]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "metrics.parquet").exists()


@pytest.mark.parametrize("name", ["run", "pairs.parquet"])
def test_an_input_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
):
    flags = _plant(tmp_path, {"cat1": 0})
    before = (tmp_path / "pairs.parquet").read_bytes()
    monkeypatch.chdir(tmp_path)
    assert main([*flags[:-1], name, "--protocol", "spair"]) == 2
    assert f"--out {name} is also an input" in capsys.readouterr().err
    assert (tmp_path / "pairs.parquet").read_bytes() == before


def test_tables_for_programs_are_all_that_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = [*_plant(tmp_path, {"cat1": 0, "cat2": 12, "dog1": 4}), "--protocol", "spair", "--alpha", "0.1"]
    assert main([*flags, "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["group_kind"], row["group"]): row["pck_image"] for row in rows}["category", "cat"] == 50
    assert "pair" not in {row["group_kind"] for row in rows}
    assert main([*flags, "--format", "csv"]) == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table.set_index("group").loc["dog", "pck_image"] == 100


def test_tables_for_papers(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = [*_plant(tmp_path, {"cat1": 0, "cat2": 12}), "--protocol", "spair", "--alpha", "0.1", "--replicates", "0"]
    assert main([*flags, "--format", "markdown"]) == 0
    lines = [re.sub(" +", " ", line) for line in capsys.readouterr().out.splitlines()]
    assert "| cat | 2 | 2 | 0 | 50.0 |" in lines
    assert main([*flags, "--format", "latex"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert r"cat & 2 & 2 & 0 & 50.0 \\" in lines


def test_the_interval_is_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = _plant(tmp_path, {f"cat{number:02}": 12 * (number % 2) for number in range(40)})
    assert main([*flags, "--protocol", "spair", "--alpha", "0.1"]) == 0
    printed = capsys.readouterr().out
    low, high = (float(re.search(rf"^all, 95 % {end} +(\S+)$", printed, re.MULTILINE)[1]) for end in ("from", "to"))
    assert 30 < low < 40
    assert 60 < high < 70


def test_latex_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = _plant(tmp_path, {"c_t1": 0, "c_t2": 12})
    assert main([*flags, "--protocol", "spair", "--alpha", "0.1", "--format", "latex"]) == 0
    printed = capsys.readouterr().out
    assert r"c\_t & 2 & 2 & 0 & 50.0 \\" in printed
    assert r"all, 95 \% from & " in printed


def test_another_run_is_set_beside_with_the_interval_of_the_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "other").mkdir()
    flags = _plant(tmp_path, {"cat1": 0, "cat2": 12, "dog1": 4})
    _plant(tmp_path / "other", {"cat1": 0, "cat2": 4, "dog1": None})
    other = str(tmp_path / "other" / "run")
    assert main([*flags, "--protocol", "spair", "--alpha", "0.1", "--compare", other]) == 0
    printed = capsys.readouterr().out
    assert f"{other} less {tmp_path / 'run'}: points of PCK" in printed
    assert "failed or missing: 0 pairs of this run, 1 of the other" in printed
    assert re.search(r"^cat +2 +\+50\.0 \[\+0\.0, \+100\.0\]$", printed, re.MULTILINE)
    assert re.search(r"^dog +1 +-100\.0$", printed, re.MULTILINE)  # one pair has no interval


@pytest.mark.parametrize(("percent", "code"), [(50, 0), (50.1, 4)])
def test_a_missed_requirement_is_an_exit_code_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], percent: float, code: int
):
    flags = [*_plant(tmp_path, {"cat1": 0, "cat2": 12}), "--protocol", "spair"]
    assert main([*flags, "--require", f"spair image .1 all >= {percent}", "spair image .15 cat >= 99"]) == code
    assert ("spair image .1 all >= 50.1: toy, source to target, has 50.00" in capsys.readouterr().err) == bool(code)
    assert (tmp_path / "metrics.parquet").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--require", "spair >= 50"], "expected PROTOCOL AVERAGE ALPHA GROUP"),
        (["--require", "spair image .1 wolf >= 50"], "there is no group wolf; there are: all, cat"),
        (["--require", "nemf image .1 all >= 50"], "protocol nemf is not evaluated; evaluated are: spair"),
        (["--replicates", "-1"], "--replicates must be 0 or more; got -1"),
        (["--compare", "nowhere"], "no matches at nowhere"),
        (["--alpha", "0.1", "5"], "alphas must be above 0 and at most 1, such as 0.1; got [0.1, 5.0]"),
    ],
)
def test_options_that_cannot_be_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
):
    assert main([*_plant(tmp_path, {"cat1": 0}), "--protocol", "spair", *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "metrics.parquet").exists()


def test_published_numbers_are_beside_the_run_and_say_whether_they_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = _plant(tmp_path, {"cat1": 0, "cat2": 12})
    pairs = pq.read_table(tmp_path / "pairs.parquet")
    column = pairs.column_names.index("dataset")
    named = pairs.set_column(column, PAIRS.field("dataset"), pa.array(["spair", "spair"]))
    pq.write_table(named, tmp_path / "pairs.parquet")
    assert main([*flags, "--protocol", "spair"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^NeMF \(nemf, not comparable\) +70\.5 +53\.6$", printed, re.MULTILINE)
    assert "of the same direction and number of pairs" in printed
    assert printed.index("NeMF (nemf") < printed.index("PCK@0.01 PCK@")  # the run's own table is last


def test_a_folder_is_not_taken_for_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = _plant(tmp_path, {"cat1": 0})
    (tmp_path / "metrics.parquet").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "metrics.parquet" / "summary.parquet")
    assert main([*flags, "--protocol", "spair"]) == 2
    assert "is a folder, METRICS of fewer than 1,000,000 pairs are a file" in capsys.readouterr().err


def test_large_runs_are_scored_on_ray_into_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jobs.evaluate.LARGE", 3)
    flags = [*_plant(tmp_path, {"cat1": 0, "cat2": 12, "dog1": None}), "--protocol", "spair", "--alpha", "0.1"]
    assert main([*flags, "--compare", str(tmp_path / "run")]) == 2
    assert "--compare is for runs of fewer than 3 pairs" in capsys.readouterr().err
    assert main(flags) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^cat +2 +2 +0 +50\.0$", printed, re.MULTILINE)
    assert set(pd.read_parquet(tmp_path / "metrics.parquet")["group_kind"]) >= {"all", "category", "pair"}
