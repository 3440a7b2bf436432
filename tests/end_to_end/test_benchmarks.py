"""The benchmarks run; what they measure is not asserted."""

from pathlib import Path

from benchmarks import overhead


def test_overhead_is_measured_and_written(tmp_path: Path) -> None:
    (measured,) = overhead.run(overhead.Config(rows=(50,), images=4, out=str(tmp_path)))

    assert measured.rows == 50
    assert measured.driver_peak_mb > 0
    assert "| 50 |" in (tmp_path / "overhead.md").read_text()
