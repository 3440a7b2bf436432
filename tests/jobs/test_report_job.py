from pathlib import Path

import pyarrow.parquet as pq
import pytest

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
